//! What runs on streams of our own: echo, perf, and a ping that is asked for.

use std::{
    io,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::{AlreadyRegistered, Control, OpenStreamError};

use crate::lines::Refusal;

pub const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");
pub const PERF: StreamProtocol = StreamProtocol::new("/perf/1.0.0");
const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
pub const ECHO_MOST: u64 = 1 << 30;
pub const PERF_MOST: u64 = 1 << 34;
const BLOCK: usize = 64 << 10;

/// Serve echo and perf from now on.
pub fn serve(control: &mut Control) -> Result<(), AlreadyRegistered> {
    let mut echoes = control.accept(ECHO)?;
    tokio::spawn(async move {
        while let Some((peer, stream)) = echoes.next().await {
            tokio::spawn(async move { told("echo", peer, serve_echo(stream).await) });
        }
    });
    let mut perfs = control.accept(PERF)?;
    tokio::spawn(async move {
        while let Some((peer, stream)) = perfs.next().await {
            tokio::spawn(async move { told("perf", peer, serve_perf(stream).await) });
        }
    });
    Ok(())
}

fn told(what: &str, peer: PeerId, ended: io::Result<()>) {
    if let Err(error) = ended {
        eprintln!("{what} of {peer}: {error}");
    }
}

async fn serve_echo(mut stream: Stream) -> io::Result<()> {
    let mut data = vec![0; BLOCK];
    loop {
        match stream.read(&mut data).await? {
            0 => return stream.close().await,
            size => {
                stream.write_all(&data[..size]).await?;
                stream.flush().await?;
            }
        }
    }
}

async fn serve_perf(mut stream: Stream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted).await?;
    drain(&mut stream).await?;
    pour(&mut stream, u64::from_be_bytes(wanted).min(PERF_MOST)).await?;
    stream.close().await
}

async fn drain(stream: &mut Stream) -> io::Result<u64> {
    let mut data = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match stream.read(&mut data).await? {
            0 => return Ok(total),
            size => total += size as u64,
        }
    }
}

async fn pour(stream: &mut Stream, mut left: u64) -> io::Result<()> {
    let data = vec![0; BLOCK];
    while left > 0 {
        let size = left.min(BLOCK as u64);
        stream.write_all(&data[..size as usize]).await?;
        left -= size;
    }
    Ok(())
}

pub async fn open(control: &mut Control, peer: PeerId, protocol: StreamProtocol) -> Result<Stream, Refusal> {
    control.open_stream(peer, protocol).await.map_err(|error| match error {
        OpenStreamError::Io(_) => Refusal::new("dial-failed", error),
        _ => Refusal::new("refused", error),
    })
}

fn broken(error: io::Error) -> Refusal {
    Refusal::new("reset", error)
}

/// Send random bytes, compare what comes back while sending; returns how long it took.
pub async fn echo(control: &mut Control, peer: PeerId, protocol: StreamProtocol, size: u64) -> Result<Duration, Refusal> {
    let (mut reading, mut writing) = open(control, peer, protocol).await?.split();
    let began = Instant::now();
    let (sent, mut expected) = tokio::sync::mpsc::channel::<Vec<u8>>(16);
    let write = async move {
        let mut left = size;
        while left > 0 {
            let mut data = vec![0; left.min(BLOCK as u64) as usize];
            rand::fill(&mut data[..]);
            left -= data.len() as u64;
            writing.write_all(&data).await?;
            writing.flush().await?;
            if sent.send(data).await.is_err() {
                return Ok(()); // the reader has failed, and says why
            }
        }
        writing.close().await
    };
    let read = async move {
        while let Some(data) = expected.recv().await {
            let mut back = vec![0; data.len()];
            reading.read_exact(&mut back).await?;
            if back != data {
                return Err(io::Error::other("the echo differs from what was sent"));
            }
        }
        Ok(())
    };
    let (wrote, compared) = futures::join!(write, read);
    compared.and(wrote).map_err(broken)?;
    Ok(began.elapsed())
}

/// Seconds up and down.
pub async fn perf(control: &mut Control, peer: PeerId, upload: u64, download: u64) -> Result<(f64, f64), Refusal> {
    let mut stream = open(control, peer, PERF).await?;
    let began = Instant::now();
    let up = async {
        stream.write_all(&download.to_be_bytes()).await?;
        pour(&mut stream, upload).await?;
        stream.close().await
    };
    up.await.map_err(broken)?;
    let uploaded = began.elapsed();
    let got = drain(&mut stream).await.map_err(broken)?;
    if got != download {
        return Err(Refusal::new("reset", format!("{got} bytes came instead of {download}")));
    }
    Ok((uploaded.as_secs_f64(), (began.elapsed() - uploaded).as_secs_f64()))
}

/// One round trip of /ipfs/ping/1.0.0.
pub async fn ping(control: &mut Control, peer: PeerId) -> Result<f64, Refusal> {
    let mut stream = open(control, peer, PING).await?;
    let mut data = [0; 32];
    rand::fill(&mut data[..]);
    let began = Instant::now();
    let turn = async {
        stream.write_all(&data).await?;
        stream.flush().await?;
        let mut back = [0; 32];
        stream.read_exact(&mut back).await?;
        let rtt = began.elapsed();
        stream.close().await?;
        if back == data { Ok(rtt) } else { Err(io::Error::other("a pong that differs from its ping")) }
    };
    turn.await.map(|rtt| rtt.as_secs_f64()).map_err(broken)
}
