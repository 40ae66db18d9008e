//! The command line: the flags of the contract, and what only this peer has.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use lexopt::{Arg, ValueExt};
use libp2p::{Multiaddr, identity::Keypair};

/// The file in the folder of the state that holds the identity, a libp2p PrivateKey message.
const KEPT_KEY: &str = "identity.key";

pub struct Options {
    pub relay: bool,
    pub listen: Vec<Multiaddr>,
    pub state: Option<PathBuf>,
    pub security: Vec<Security>,
    pub mdns: bool,
    pub mdns_dials: bool,
    /// Whether AutoNAT servers are asked without being told to.
    pub asks: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Noise,
    Tls,
}

impl Security {
    pub fn protocol(self) -> &'static str {
        match self {
            Security::Noise => "/noise",
            Security::Tls => "/tls/1.0.0",
        }
    }
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, Box<dyn Error>> {
    let both = vec![Security::Noise, Security::Tls];
    let mut options = Options {
        relay: false,
        listen: vec![],
        state: None,
        security: both,
        mdns: false,
        mdns_dials: true,
        asks: false,
    };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("name") => drop(parser.value()?),
            Arg::Long("role") => options.relay = role(&parser.value()?.string()?)?,
            Arg::Long("listen") => options.listen.push(parser.value()?.parse()?),
            Arg::Long("state") => options.state = Some(parser.value()?.into()),
            Arg::Long("security") => options.security = securities(&parser.value()?.string()?)?,
            Arg::Long("muxer") => match parser.value()?.string()?.as_str() {
                "yamux" => {}
                other => return Err(format!("--muxer: no {other:?} here; there is: yamux").into()),
            },
            Arg::Long("mdns") => options.mdns = true,
            Arg::Long("no-mdns-dial") => options.mdns_dials = false,
            Arg::Long("reachability") => options.asks = asks(&parser.value()?.string()?)?,
            Arg::Long(other) => return Err(format!("--{other}: there is no such flag").into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.listen.is_empty() {
        options.listen.push("/ip4/0.0.0.0/tcp/4001".parse()?);
    }
    Ok(options)
}

fn role(text: &str) -> Result<bool, Box<dyn Error>> {
    match text {
        "peer" => Ok(false),
        "relay" => Ok(true),
        other => Err(format!("--role: {other:?} is neither peer nor relay").into()),
    }
}

fn asks(text: &str) -> Result<bool, Box<dyn Error>> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("--reachability: no {other:?} here; there are: auto, off").into()),
    }
}

fn securities(text: &str) -> Result<Vec<Security>, Box<dyn Error>> {
    let one = |name| match name {
        "noise" => Ok(Security::Noise),
        "tls" => Ok(Security::Tls),
        other => Err(format!("--security: no {other:?} here; there are: noise, tls").into()),
    };
    text.split(',').map(one).collect()
}

impl Options {
    /// The key that an earlier start has left in the folder, or a new one, which is left there.
    pub fn identity(&self) -> Result<Keypair, Box<dyn Error>> {
        let Some(file) = self.state.as_ref().map(|folder| folder.join(KEPT_KEY)) else {
            return Ok(Keypair::generate_ed25519());
        };
        match fs::read(&file) {
            Ok(data) => return Ok(Keypair::from_protobuf_encoding(&data)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", file.display()).into()),
        }
        let key = Keypair::generate_ed25519();
        let mut kept = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        kept.write_all(&key.to_protobuf_encoding()?)?;
        Ok(key)
    }
}
