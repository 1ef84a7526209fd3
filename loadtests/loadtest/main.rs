//! Load on an OpenAI-compatible server: open loop (requests come at their times, whatever the server does) and closed loop
//! (connections back to back). See `loadtests/README.md`.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

#[cfg(target_os = "linux")]
mod arguments;
#[cfg(target_os = "linux")]
mod floor;
#[cfg(target_os = "linux")]
mod outcome;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod poller;
#[cfg(target_os = "linux")]
mod probe;
#[cfg(target_os = "linux")]
mod request;
#[cfg(target_os = "linux")]
mod response;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod show;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    use clap::Parser as _;
    match arguments::Arguments::parse().command {
        arguments::Command::Run(options) => {
            let result = options.run()?;
            print!("{}", show::table(&[result]));
        }
        arguments::Command::Floor { listen, delay_ms } => {
            floor::serve(listen, std::time::Duration::from_secs_f64(delay_ms / 1e3))?
        }
        arguments::Command::Table { files } => print!("{}", show::table(&arguments::read(&files)?)),
        arguments::Command::Plot { files, out } => std::fs::write(out, show::plot(&arguments::read(&files)?))?,
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("This program waits by Linux's epoll; run it on Linux.");
}
