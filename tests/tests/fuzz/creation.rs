//! Requests for pools: any module, name, id and permissions, any creation parameters, on any file.

use std::fs::{self, File};
use std::os::fd::AsFd;

use chimaera_bdev_proto::{
    BdevType, CreateParams, IoEngine, MODULE_NAME, PerfMetrics, ScrubPolicy, UNIT_BYTES,
};
use chimaera_proto::admin::{GetOrCreatePool, Method, PoolInfo};
use chimaera_proto::control::ControlRequest;
use chimaera_proto::limits::ADMIN_BUFFER_BYTES;
use chimaera_proto::{PoolId, codec};
use chimaera_testing::{FuzzInput, HostileFiles};

use super::Rig;
use super::attacker::{Attacker, outcome_of};

/// Bytes of the files that pools are made on.
const FILE_BYTES: u64 = 8 << 20;

/// The most requests of an input.
const MAX_REQUESTS: usize = 6;

/// What the host's memory may have grown to by then, in KiB.
const MAX_RESIDENT_KIB: u64 = 1 << 20;

/// Mostly right, as what an input that has ended gives is: a request with several faults shows one of them.
fn some_params(input: &mut FuzzInput<'_>) -> Vec<u8> {
    if input.once_in(16) {
        return input.bytes(255).to_vec();
    }
    let number = |input: &mut FuzzInput<'_>| input.once_in(8).then(|| input.edge_u64() as u32);
    let sizes = [0, 1 << 20, 4 << 20, FILE_BYTES, 4096, 4095];
    let params = CreateParams {
        bdev_type: input.one_of(&[BdevType::File, BdevType::File, BdevType::Ram]),
        total_size: match input.once_in(8) {
            true => input.edge_u64(),
            false => input.one_of(&sizes),
        },
        io_depth: match input.once_in(4) {
            true => number(input),
            false => input.one_of(&[None, None, Some(1), Some(4096), Some(4097), Some(0)]),
        },
        alignment: match input.below(4) {
            0 => None,
            1 => number(input),
            _ => Some(512 << input.below(5)),
        },
        io_engine: input.one_of(&[IoEngine::Auto, IoEngine::Libaio, IoEngine::IoUring]),
        perf_metrics: input.once_in(8).then(|| {
            let mut number = || f64::from_bits(input.edge_u64());
            PerfMetrics {
                read_bandwidth_mbps: number(),
                write_bandwidth_mbps: number(),
                read_latency_us: number(),
                write_latency_us: number(),
                iops: number(),
            }
        }),
        overwrite: input.once_in(2),
        read_only: input.once_in(4),
        trust_owner: input.once_in(4),
        opened_by_daemon: input.once_in(4),
        scrub: input.one_of(&[None, Some(ScrubPolicy::None), Some(ScrubPolicy::Allocate)]),
    };
    let mut bytes = codec::encode(&params).expect("encodes");
    match input.below(24) {
        22 => bytes.truncate(input.below(bytes.len())),
        23 => {
            let at = input.below(bytes.len());
            bytes[at] = input.byte();
        }
        _ => {}
    }
    bytes
}

fn some_request(input: &mut FuzzInput<'_>, file: Option<u64>, path: &str) -> GetOrCreatePool {
    let odd = ["", "absent", "../chimaera_bdev", "chimaera_bdev\0", "admin"];
    let module = match input.below(24) {
        22 => "chimaera_echo",
        23 => input.one_of(&odd),
        _ => MODULE_NAME,
    };
    let name = match input.below(24) {
        21 => "n".repeat(input.below(5000)),
        22 => String::from_utf8_lossy(input.bytes(64)).into_owned(),
        23 => "/etc/passwd".to_owned(),
        _ => path.to_owned(),
    };
    let id = match input.below(8) {
        6 => PoolId::new(8000, input.below(3) as u32),
        7 => PoolId::new(input.edge_u64() as u32, input.edge_u64() as u32),
        _ => PoolId::NULL,
    };
    let number = |input: &mut FuzzInput<'_>| input.once_in(32).then(|| input.edge_u64());
    GetOrCreatePool {
        module: module.to_owned(),
        name,
        id,
        owner: number(input).map(|number| number as u32),
        group: number(input).map(|number| number as u32),
        mode: number(input).map(|number| number as u16),
        incarnation: number(input),
        file: match input.once_in(16) {
            true => Some(input.edge_u64()),
            false => file,
        },
        params: some_params(input),
    }
}

/// Offers a file under the number 1: an empty one, one with anything in it, the same as before, or what is no file at
/// all.
fn offer(
    rig: &Rig,
    input: &mut FuzzInput<'_>,
    files: &HostileFiles,
    attacker: &mut Attacker,
) -> u32 {
    let path = rig.folder.path().join("file");
    let offer = ControlRequest::OfferFile { number: 1 };
    let open = || File::options().read(true).write(true).open(&path);
    let reply = match input.below(8) {
        7 => attacker.ask(&offer, &[files.file(input.below(files.count()))]),
        6 => {
            let file = File::open(&path).expect("opens");
            attacker.ask(&offer, &[file.as_fd()])
        }
        kind => {
            if kind == 2 {
                let mut bytes = input.bytes(255).to_vec();
                bytes.resize(8192, 0);
                fs::write(&path, bytes).expect("is written");
            } else if kind < 2 {
                File::create(&path).expect("is emptied");
            }
            let file = open().expect("opens");
            let sizes = [FILE_BYTES, FILE_BYTES, 0, 4096, 2 << 20, FILE_BYTES - 1];
            file.set_len(input.one_of(&sizes)).expect("takes its size");
            attacker.ask(&offer, &[file.as_fd()])
        }
    };
    outcome_of(reply.as_ref())
}

fn run(rig: &mut Rig, files: &HostileFiles, input: &[u8]) -> Vec<u32> {
    let mut input = FuzzInput::new(input);
    let input = &mut input;
    let mut attacker = Attacker::new(&rig.socket);
    let path = rig.folder.path().join("file");
    let path = path.to_str().expect("a text");
    let mut outcomes = Vec::new();
    for _ in 0..MAX_REQUESTS {
        let is_offered = !input.once_in(4);
        if is_offered {
            outcomes.push(1 << 16 | offer(rig, input, files, &mut attacker));
        }
        let request = some_request(input, is_offered.then_some(1), path);
        let Ok(mut encoded) = codec::encode(&request) else {
            break;
        };
        if input.once_in(16) {
            encoded.extend_from_slice(input.bytes(64));
        }
        encoded.truncate(ADMIN_BUFFER_BYTES as usize);
        let answered = attacker.admin_encoded(Method::GetOrCreatePool as u16, &encoded);
        let kind = u32::from(request.params.first().copied().unwrap_or(9).min(9));
        if answered.outcome() == 1 && request.module == MODULE_NAME {
            let params = codec::decode(&request.params);
            let params: CreateParams = params.expect("the module has read them");
            assert_possible(&params);
            // The daemon opens no path for a user.
            let pool: PoolInfo = attacker.reply(&answered);
            let has_file = params.bdev_type == BdevType::Ram || request.file.is_some();
            assert!(has_file || !pool.created, "{pool:?}");
        }
        outcomes.push(2 << 16 | kind << 12 | answered.outcome());
        if answered.outcome() == 0 || input.has_ended() {
            break;
        }
    }
    drop(attacker);
    rig.destroy_others();
    outcomes
}

/// That parameters with which a pool was made, or found, are such as the module promises to accept.
fn assert_possible(params: &CreateParams) {
    if params.bdev_type == BdevType::File {
        let depths = 1..=CreateParams::MAX_IO_DEPTH;
        let fits = params.io_depth.is_none_or(|depth| depths.contains(&depth));
        let is_aligned = params
            .alignment
            .is_none_or(|bytes| bytes == 0 || CreateParams::is_alignment(bytes));
        assert!(fits && is_aligned, "{params:?}");
        assert!(!(params.overwrite && params.read_only), "{params:?}");
    } else {
        assert!(params.total_size >= UNIT_BYTES, "{params:?}");
    }
    if let Some(metrics) = &params.perf_metrics {
        let declared = [
            metrics.read_bandwidth_mbps,
            metrics.write_bandwidth_mbps,
            metrics.read_latency_us,
            metrics.write_latency_us,
            metrics.iops,
        ];
        let is_possible = |value: &f64| value.is_finite() && *value >= 0.0;
        assert!(declared.iter().all(is_possible), "{params:?}");
    }
}

/// The most memory that this process, and so the host, has had, in KiB.
fn most_resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.expect("a number").parse().expect("a number")
}

#[test]
fn whatever_pool_is_asked_for_the_host_serves_on() {
    let files = HostileFiles::new();
    let rig = Rig::new();
    fs::write(rig.folder.path().join("file"), "").expect("is made");
    rig.run("creation", 1500, |rig, input| run(rig, &files, input));
    let resident = most_resident_kib();
    assert!(resident < MAX_RESIDENT_KIB, "{resident} KiB");
}
