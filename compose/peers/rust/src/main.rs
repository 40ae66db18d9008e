//! A rust-libp2p node that speaks the peer contract (docs/contract.md): JSON lines on stdin and stdout.

mod asking;
mod lines;
mod node;
mod options;
mod streams;

use std::process::ExitCode;

const BAD_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match options::parse(std::env::args_os().skip(1)) {
        Ok(options) => node::run(options).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust-libp2p peer: {error}");
            ExitCode::from(BAD_USAGE)
        }
    }
}
