//! `chimaera pool create`.

use chimaera_bdev_client::{
    BlockType, Client, CreateOptions, Error, PerfMetrics, PoolId, PoolInfo, PoolQuery, Right,
    Stats, Status,
};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_client::proto::limits::MAX_CREATE_PARAMS_BYTES;

use super::PoolReport;
use super::permissions::{kept, zeroed};
use super::stats::allocated_bytes;
use crate::args::{CreatePoolArguments, GlobalArguments, KindArgument, MetricsArguments};
use crate::connection::{connect, order};
use crate::failure::CommandFailure;
use crate::input_file::read_regular;
use crate::output::{self, printable};
use crate::size::show_size;
use crate::users::split_owner;

pub(super) fn create(
    arguments: &CreatePoolArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    refuse_owner_in_name(&arguments.name)?;
    match (&arguments.module, arguments.kind) {
        (Some(module), _) => create_of_module(module, arguments, global),
        (None, Some(kind)) => create_block_device(kind, arguments, global),
        (None, None) => unreachable!("one of them is required"),
    }
}

/// Refuses a name that other commands would take for another user's pool.
fn refuse_owner_in_name(text: &str) -> Result<(), CommandFailure> {
    let (Some(owner), name) = split_owner(text) else {
        return Ok(());
    };
    Err(CommandFailure::usage(format!(
        "{} means the pool {} of user {owner}: give `--owner {owner}` and that name, or write ./ before the path of a \
         file whose name has a colon",
        printable(text),
        printable(name)
    )))
}

/// Creates a pool of another module, of which this program knows nothing but the name.
fn create_of_module(
    module: &str,
    arguments: &CreatePoolArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let params = match (&arguments.params, &arguments.params_file) {
        (Some(text), _) if text.len() > MAX_CREATE_PARAMS_BYTES => {
            return Err(CommandFailure::usage(format!(
                "--params has {} bytes, and a module takes at most {MAX_CREATE_PARAMS_BYTES}",
                text.len()
            )));
        }
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => read_regular(path, "the parameters' file", MAX_CREATE_PARAMS_BYTES)?,
        (None, None) => Vec::new(),
    };
    let id = arguments.id.unwrap_or(PoolId::NULL);
    let request = GetOrCreatePool {
        owner: arguments.owner,
        group: arguments.group,
        mode: arguments.mode,
        ..GetOrCreatePool::new(module, &arguments.name, id, params)
    };
    let runtime = connect(&arguments.daemon)?;
    let admin = runtime.admin();
    let info = order(&arguments.daemon, || {
        admin.get_or_create_pool(PoolQuery::Dynamic, &request)
    })?;
    if global.json {
        return output::json(&PoolReport::of_creation(&info));
    }
    output::line(format_args!(
        "{} pool {} of module {} with id {}{}",
        verb(&info),
        printable(&info.name),
        printable(&info.module),
        info.id,
        printable(&kept(arguments, &info))
    ));
    Ok(())
}

/// How the request for a pool ended, as the first word of the answer.
const fn verb(info: &PoolInfo) -> &'static str {
    match (info.created, info.opened) {
        (true, false) => "created",
        (true, true) => "opened what was there:",
        (false, _) => "exists with these parameters:",
    }
}

fn create_block_device(
    kind: KindArgument,
    arguments: &CreatePoolArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    check_kind(kind, arguments)?;
    let name = pool_name(kind, arguments)?;
    let runtime = connect(&arguments.daemon)?;
    let options = options(kind, arguments);
    let client = Client::new(&runtime, arguments.id.unwrap_or(PoolId::NULL));
    let create = |options: &CreateOptions| {
        let daemon = &arguments.daemon;
        let created = order(daemon, || client.create(PoolQuery::Dynamic, &name, options));
        created.map_err(in_options)
    };
    let info = match arguments.metrics.declare(None) {
        Declaration::Nothing => create(&options)?,
        Declaration::All(metrics) => create(&options.perf_metrics(metrics))?,
        Declaration::Some => {
            // What is declared already is only known once the pool is open.
            let info = create(&options)?;
            let declared = match info.created && !info.opened {
                true => PerfMetrics::default(),
                false => stats_of_created(&client, &info)?.metrics,
            };
            if let Declaration::All(metrics) = arguments.metrics.declare(Some(declared)) {
                let again = options.overwrite(false).perf_metrics(metrics);
                create(&again).map_err(|failure| {
                    failure.explain(format_args!(
                        "the pool is open all the same, as {}",
                        info.id
                    ))
                })?;
            }
            info
        }
    };
    // Its mode may give its maker nothing.
    let stats = match info.rights.has(Right::Read) {
        true => Some(stats_of_created(&client, &info)?),
        false => None,
    };
    if global.json {
        return output::json(&PoolReport {
            total_size: stats.map(|stats| stats.total_size),
            ..PoolReport::of_creation(&info)
        });
    }
    let told = stats.map(|stats| {
        let size = rounding(arguments.size, &stats);
        let zeroed = zeroed(arguments.scrub.and(Some(stats.scrub)));
        format!("{size}; {}{zeroed}", contents(&stats))
    });
    output::line(format_args!(
        "{} pool {} with id {}{}{}",
        verb(&info),
        printable(&info.name),
        info.id,
        told.unwrap_or_default(),
        printable(&kept(arguments, &info))
    ));
    Ok(())
}

/// The statistics of a pool that was just created. Another client may have destroyed it meanwhile.
fn stats_of_created(client: &Client, info: &PoolInfo) -> Result<Stats, CommandFailure> {
    client.get_stats().map_err(|error| match error.status() {
        Status::PoolNotFound => CommandFailure::not_found(format!(
            "the pool {} was open with the id {}, and another client has destroyed it since: create it again, if it is \
             still wanted",
            printable(&info.name),
            info.id
        )),
        _ => error.into(),
    })
}

/// Refuses options for memory pools that mean something for pools on files only.
fn check_kind(kind: KindArgument, arguments: &CreatePoolArguments) -> Result<(), CommandFailure> {
    if kind == KindArgument::File {
        return Ok(());
    }
    let given = [
        ("--io-depth", arguments.io_depth.is_some()),
        ("--alignment", arguments.alignment.is_some()),
        ("--io-engine", arguments.io_engine.is_some()),
        ("--overwrite", arguments.overwrite),
        ("--read-only", arguments.read_only),
        ("--trust-owner", arguments.trust_owner),
        ("--by-daemon", arguments.by_daemon),
    ];
    let of_files = given.iter().find(|(_, is_given)| *is_given);
    match (of_files, arguments.size) {
        (Some((option, _)), _) => Err(CommandFailure::usage(format!(
            "{option} is for pools on files and devices, and means nothing for memory: leave it out, or give \
             --type file"
        ))),
        (None, Some(0)) => Err(CommandFailure::usage(
            "--size is 0, and a memory pool needs a size: give at least 4KiB",
        )),
        (None, _) => Ok(()),
    }
}

fn options(kind: KindArgument, arguments: &CreatePoolArguments) -> CreateOptions {
    let mut options = match kind {
        KindArgument::Ram => CreateOptions::ram(arguments.size.unwrap_or(0)),
        KindArgument::File => CreateOptions::file().size(arguments.size.unwrap_or(0)),
    };
    if let Some(io_depth) = arguments.io_depth {
        options = options.io_depth(io_depth);
    }
    if let Some(alignment) = arguments.alignment {
        options = options.alignment(alignment);
    }
    if let Some(owner) = arguments.owner {
        options = options.owner(owner);
    }
    if let Some(group) = arguments.group {
        options = options.group(group);
    }
    if let Some(mode) = arguments.mode {
        options = options.mode(mode);
    }
    if let Some(scrub) = arguments.scrub {
        options = options.scrub(scrub.into());
    }
    if let Some(engine) = arguments.io_engine {
        options = options.io_engine(engine.into());
    }
    options
        .overwrite(arguments.overwrite)
        .read_only(arguments.read_only)
        .trust_owner(arguments.trust_owner)
        .opened_by_daemon(arguments.by_daemon)
}

/// Which characteristics of a device are to be declared.
#[derive(Debug, PartialEq)]
enum Declaration {
    Nothing,
    /// Some, which cannot be declared without the others.
    Some,
    All(PerfMetrics),
}

impl MetricsArguments {
    /// What these arguments declare. For those that are left out, what is `declared` already stays.
    fn declare(&self, declared: Option<PerfMetrics>) -> Declaration {
        let given = [
            self.read_bandwidth_mbps,
            self.write_bandwidth_mbps,
            self.read_latency_us,
            self.write_latency_us,
            self.iops,
        ];
        let is_given = |value: &Option<f64>| value.is_some();
        if !given.iter().any(is_given) {
            return Declaration::Nothing;
        }
        if !given.iter().all(is_given) && declared.is_none() {
            return Declaration::Some;
        }
        let declared = declared.unwrap_or_default();
        Declaration::All(PerfMetrics {
            read_bandwidth_mbps: self
                .read_bandwidth_mbps
                .unwrap_or(declared.read_bandwidth_mbps),
            write_bandwidth_mbps: self
                .write_bandwidth_mbps
                .unwrap_or(declared.write_bandwidth_mbps),
            read_latency_us: self.read_latency_us.unwrap_or(declared.read_latency_us),
            write_latency_us: self.write_latency_us.unwrap_or(declared.write_latency_us),
            iops: self.iops.unwrap_or(declared.iops),
        })
    }
}

/// The module's refusal, with options in place of the module's parameters.
fn in_options(error: Error) -> CommandFailure {
    let is_value = matches!(error.status(), Status::InvalidArgument | Status::Alignment);
    let is_parameter = is_value || error.status() == Status::ParameterMismatch;
    let failure = CommandFailure::from(error).map_text(advise_options);
    match is_parameter {
        true => failure.map_text(name_options),
        false => {
            failure.map_text(|text| text.replace("perf_metrics", "the declared characteristics"))
        }
    }
}

/// The parameters that the module's errors name, and this program's options for them.
const OPTIONS: [(&str, &str); 8] = [
    ("bdev_type", "--type"),
    ("size", "--size"),
    ("io_depth", "--io-depth"),
    ("alignment", "--alignment"),
    ("io_engine", "--io-engine"),
    ("scrub", "--scrub"),
    ("read_only", "--read-only"),
    ("overwrite", "--overwrite"),
];

/// Advice in the module's errors, and the same advice with this program's options.
const ADVICE: [(&str, &str); 4] = [
    (" set overwrite ", " give --overwrite "),
    (" set read_only ", " give --read-only "),
    (" there with read_only", " there with --read-only"),
    (" a smaller io_depth", " a smaller --io-depth"),
];

/// Puts options into the module's advice, which is recognised by the words around a parameter.
fn advise_options(text: &str) -> String {
    let replace = |text: String, (words, option): (&str, &str)| text.replace(words, option);
    ADVICE.into_iter().fold(text.to_owned(), replace)
}

/// Puts options in place of parameters, where a text is about them as in `size is 4096`: not in paths or other
/// sentences.
fn name_options(text: &str) -> String {
    let mut named = text.to_owned();
    for (parameter, option) in OPTIONS {
        for before in [": ", "; "] {
            let spoken_of = format!("{before}{parameter} is ");
            named = named.replace(&spoken_of, &format!("{before}{option} is "));
        }
    }
    named
}

/// By so much a pool grows if it can grow at all: its last megabyte may have been incomplete.
const MIN_GROWTH_BYTES: u64 = 5 << 20;

/// Says which size a pool has, and why, where it is not the one that was asked for.
fn rounding(asked: Option<u64>, stats: &Stats) -> String {
    let block = BlockType::Kib4.size();
    let size = stats.total_size;
    match asked {
        None | Some(0) => String::new(),
        Some(asked) if asked == size => String::new(),
        Some(asked) if asked - asked % block == size => {
            format!(", of {size} bytes: as many whole blocks of {block} as {asked} bytes hold")
        }
        Some(asked) if asked > size && asked - size >= MIN_GROWTH_BYTES => {
            format!(
                ", of {size} bytes, and not {asked}: it has grown 63 times, and a pool grows no more often"
            )
        }
        Some(asked) => format!(
            ", of {size} bytes, and not {asked}: a pool grows by at least 4 MiB, and 63 times at most, and the \
             daemon's log says when it grows again"
        ),
    }
}

/// Says how much is allocated in a pool: whoever opens an existing pool wants to see that it holds something, and
/// whoever makes a new one that it is empty.
fn contents(stats: &Stats) -> String {
    match (allocated_bytes(stats), stats.has_unknown_blocks) {
        (0, false) => "no blocks are allocated in it".to_owned(),
        (bytes, false) => format!("blocks of {} are allocated in it", show_size(bytes)),
        (bytes, true) => format!(
            "its metadata is damaged: blocks of {} are known in it, and there may be more that nobody knows of",
            show_size(bytes)
        ),
    }
}

/// The name of the pool. For a file pool it is the absolute path: the daemon has another working folder.
fn pool_name(
    kind: KindArgument,
    arguments: &CreatePoolArguments,
) -> Result<String, CommandFailure> {
    if kind == KindArgument::Ram {
        return Ok(arguments.name.clone());
    }
    let path = std::path::absolute(&arguments.name).map_err(CommandFailure::system(
        format_args!("{} is not a path", arguments.name),
    ))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| CommandFailure::usage(format!("{} is not UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_as_options_where_they_are_spoken_of() {
        let text = "creating pool: the pool exists with other parameters: size is 4096, asked for 8192; io_depth \
                    is 32, asked for 4";
        let named = "creating pool: the pool exists with other parameters: --size is 4096, asked for 8192; \
                     --io-depth is 32, asked for 4";
        assert_eq!(name_options(text), named);
        let text = "cannot open /var/io_depth is here: its size is wrong";
        assert_eq!(name_options(text), text);
    }

    #[test]
    fn advice_names_options() {
        let text = "/set overwrite: it holds data, and no pool: use another file, or set overwrite to lose it";
        let named = "/set overwrite: it holds data, and no pool: use another file, or give --overwrite to lose it";
        assert_eq!(advise_options(text), named);
    }

    #[test]
    fn what_is_not_given_stays_as_it_is_declared() {
        let iops = MetricsArguments {
            iops: Some(5.0),
            ..MetricsArguments::default()
        };
        assert_eq!(
            MetricsArguments::default().declare(None),
            Declaration::Nothing
        );
        assert_eq!(iops.declare(None), Declaration::Some);
        let declared = PerfMetrics {
            read_latency_us: 7.0,
            ..PerfMetrics::default()
        };
        let expected = PerfMetrics {
            iops: 5.0,
            ..declared
        };
        assert_eq!(iops.declare(Some(declared)), Declaration::All(expected));
    }
}
