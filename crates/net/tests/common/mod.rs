//! A host of the test's own: a network namespace with an uplink to another one that plays the rest of the world.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use net::{Endpoint, EndpointRequest, Net, NetConfig, Netns, PortRequest, Protocol};
use rustix::thread::LinkNameSpaceType;
use types::Id;

pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const HOST6: &str = "2001:db8::1";

pub struct Host {
    pub run_dir: PathBuf,
    pub outside: Netns,
}

impl Host {
    pub fn config(&self) -> NetConfig {
        let mut config = NetConfig::derive(&self.run_dir.join("data"), &self.run_dir);
        config.netd_command = vec![env!("CARGO_BIN_EXE_netd").into()];
        config
    }

    pub fn open(&self) -> Net {
        let net = Net::open(self.config()).unwrap();
        assert!(net.restore(Vec::new()).is_empty());
        net
    }
}

/// Runs a test on a host of its own, and looks that nothing of it stays.
pub fn on_host(name: &str, test: impl FnOnce(&Host) + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: {name}: network namespaces need root");
        return;
    }
    let run_dir = std::env::temp_dir().join(format!("cais-net-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&run_dir).unwrap();
    let outcome = thread::scope(|scope| {
        let host = || {
            kernel::net::unshare_network().unwrap();
            ip("link set lo up");
            let outside = Netns::create(&[]).unwrap();
            let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_fd().as_raw_fd());
            ip(&format!("link add up0 type veth peer name eth0 netns {path}"));
            ip(&format!("addr add {HOST}/24 dev up0"));
            ip(&format!("addr add {HOST6}/64 dev up0 nodad"));
            ip("link set up0 up");
            inside(&outside, || {
                ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
                ip("addr add 2001:db8::2/64 dev eth0 nodad");
                ip("link set eth0 up");
            });
            test(&Host { run_dir: run_dir.clone(), outside });
        };
        scope.spawn(host).join()
    });
    let mut left = netd_processes(&run_dir);
    let start = Instant::now();
    while !left.is_empty() && start.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(5));
        left = netd_processes(&run_dir);
    }
    let _ = std::fs::remove_dir_all(&run_dir);
    if let Err(panic) = outcome {
        left.iter().for_each(|pid| drop(Command::new("kill").arg(pid.to_string()).status()));
        std::panic::resume_unwind(panic);
    }
    assert_eq!(left, [] as [u32; 0], "netd stays");
}

/// The netd processes that serve this run directory.
pub fn netd_processes(run_dir: &std::path::Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).into_owned();
        text.contains("--socket") && text.contains(&*run_dir.to_string_lossy())
    };
    processes.filter(ours).collect()
}

/// Runs something on a thread inside a namespace.
pub fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let enter = || {
            rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        scope.spawn(enter).join().unwrap()
    })
}

pub fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

pub fn ip(command: &str) {
    let (done, text) = run("ip", &command.split(' ').collect::<Vec<_>>());
    assert!(done, "ip {command}: {text}");
}

pub fn nft(command: &str) -> String {
    let (done, text) = run("nft", &[command]);
    assert!(done, "nft {command}: {text}");
    text
}

pub fn has_nft() -> bool {
    let there = Command::new("nft").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIP: no nft program to compare with");
    }
    there
}

pub struct Container {
    pub netns: Netns,
    pub endpoint: Endpoint,
}

pub fn container(net: &Net, name: &str) -> Container {
    let netns = Netns::create(&[]).unwrap();
    let endpoint = net.attach(&netns, &EndpointRequest::new(Id::random(), name, "bridge")).unwrap();
    Container { netns, endpoint }
}

impl Container {
    pub fn ip(&self) -> Ipv4Addr {
        self.endpoint.ipv4().unwrap()
    }

    /// Serves connections inside: says who it is and whom it sees, then echoes until the client's end.
    pub fn serve_tcp(&self, port: u16, name: &'static str) {
        let listener = inside(&self.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip();
                    let _ = stream.write_all(format!("{name} sees {peer}\n").as_bytes());
                    let mut buffer = [0; 65536];
                    while let Ok(len @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..len]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }

    pub fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = inside(&self.netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                let text = format!("{name} sees {} {}", peer.ip(), String::from_utf8_lossy(&buffer[..len]));
                let _ = socket.send_to(text.as_bytes(), peer);
            }
        });
    }
}

pub fn port(protocol: Protocol, host_ip: Option<&str>, host_ports: std::ops::RangeInclusive<u16>, container_port: u16) -> PortRequest {
    PortRequest { protocol, host_ip: host_ip.map(|text| text.parse().unwrap()), host_ports, container_port }
}

/// The first line that a server says, and what comes after our end.
pub fn talk(address: impl Into<IpAddr>, port: u16, words: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address.into(), port), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(words.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub fn ask_udp(address: impl Into<IpAddr>, port: u16, words: &str) -> std::io::Result<String> {
    let address = SocketAddr::new(address.into(), port);
    let local: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(words.as_bytes())?;
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} does not come about");
        thread::sleep(Duration::from_millis(10));
    }
}
