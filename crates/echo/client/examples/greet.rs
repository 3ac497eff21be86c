//! Calls a pool of the daemon: `cargo run --example greet -- POOL`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use chimaera_echo_client::{Client, Runtime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("give the name of a pool")?;
    let runtime = Runtime::connect()?;
    let pool = runtime.admin().find_pool(&name)?;
    let client = Client::new(&runtime, pool.id);
    println!(
        "it says {}, and gives back {}",
        client.greet()?,
        client.echo(7)?
    );
    Ok(())
}
