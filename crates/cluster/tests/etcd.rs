//! Hosts that share networks through a real etcd: on loopback, in a folder of its own, killed and brought back.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cluster::{Claim, Cluster, Config, Endpoint, NewNetwork, Store, Tls, View};
use etcd_client::Client;
use types::{Classify, ErrorKind, Id};

const PATIENCE: Duration = Duration::from_secs(60);

/// A real etcd; ends when dropped.
struct Etcd {
    dir: tempfile::TempDir,
    port: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIP: etcd is not installed");
            return None;
        }
        let mut etcd = Self { dir: tempfile::tempdir().unwrap(), port: free_port(0), peer: free_port(1), process: None };
        etcd.run();
        Some(etcd)
    }

    fn run(&mut self) {
        let (client, peer) = (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer));
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.data());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")]);
        self.process = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A client of our own, when etcd answers.
    async fn client(&self) -> Client {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let mut client = Client::connect([format!("http://127.0.0.1:{}", self.port)], None).await.unwrap();
            match client.get("any", None).await {
                Ok(_) => return client,
                Err(error) => assert!(std::time::Instant::now() < end, "etcd does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn config(&self, number: u8) -> Config {
        Config {
            store: format!("etcd://127.0.0.1:{}", self.port).parse::<Store>().unwrap(),
            tls: Tls::default(),
            user: None,
            host: Id::random(),
            name: format!("host{number}"),
            advertise: format!("192.0.2.{number}").parse().unwrap(),
            ttl_secs: 5,
        }
    }

    fn member(&self, number: u8) -> Cluster {
        let cluster = Cluster::open(self.config(number), None).unwrap();
        cluster.restore(Vec::new());
        cluster
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that no connection is given by chance, so that an etcd that comes back finds it free.
fn free_port(place: u16) -> u16 {
    let first = u16::try_from(std::process::id() % 4000).unwrap() * 2 + 20_000 + place;
    (first..first + 2000).step_by(2).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap()
}

async fn until(cluster: &Cluster, what: &str, reached: impl Fn(&View) -> bool) -> Arc<View> {
    let mut changes = cluster.changes();
    match tokio::time::timeout(PATIENCE, changes.wait_for(|view| reached(view))).await {
        Ok(view) => view.unwrap().clone(),
        Err(_) => panic!("not in time: {what}; {:?}", cluster.view()),
    }
}

fn claim(network: &Id, name: &str, address: Option<&str>) -> Claim {
    Claim {
        endpoint: Id::random(),
        network: network.clone(),
        container: Id::random(),
        name: name.to_owned(),
        names: vec![name.to_owned()],
        address: address.map(|address| address.parse().unwrap()),
        mac: None,
    }
}

fn web() -> NewNetwork {
    NewNetwork { name: "web".to_owned(), ..NewNetwork::default() }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_is_given_twice() {
    let Some(etcd) = Etcd::start() else { return };
    let hosts: Vec<_> = (1..=3).map(|number| Arc::new(etcd.member(number))).collect();
    until(&hosts[0], "etcd answers", |view| view.connected).await;
    let network = hosts[0].create_network(web()).await.unwrap();
    for host in &hosts {
        until(host, "the network is known", |view| view.networks.contains_key(&network.id)).await;
    }
    let mut tasks = Vec::new();
    for number in 0..60 {
        let (host, id) = (hosts[number % 3].clone(), network.id.clone());
        tasks.push(tokio::spawn(async move { host.claim(&claim(&id, &format!("c{number}"), None)).await.unwrap() }));
    }
    let mut given = Vec::new();
    for task in tasks {
        given.push(task.await.unwrap());
    }
    let mut addresses: Vec<_> = given.iter().map(|endpoint| endpoint.address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 60);
    for host in &hosts {
        let view = until(host, "all endpoints are known", |view| view.on(&network.id).count() == 60).await;
        assert_eq!(view.remote(&network.id, host.host()).len(), 40);
    }
    // A taken address says who has it, on whatever host it is asked for.
    let wanted = given[0].address.to_string();
    let error = hosts[1].claim(&claim(&network.id, "late", Some(&wanted))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().ends_with(&format!("is in use by container {} on host{}", given[0].name, 1)), "{error}");
    // Given back, it can be had.
    let owner = hosts.iter().find(|host| *host.host() == given[0].host).unwrap();
    owner.release(&network.id, &given[0].id).await.unwrap();
    assert_eq!(hosts[1].claim(&claim(&network.id, "late", Some(&wanted))).await.unwrap().address.to_string(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_networks_of_two_hosts_cannot_both_be_made() {
    let Some(etcd) = Etcd::start() else { return };
    let hosts: Vec<_> = (1..=2).map(|number| Arc::new(etcd.member(number))).collect();
    until(&hosts[0], "etcd answers", |view| view.connected).await;
    let mut tasks = Vec::new();
    for number in 0..8 {
        let host = hosts[number % 2].clone();
        let subnets = vec![format!("10.77.{}.0/24", number / 4).parse().unwrap()];
        tasks.push(tokio::spawn(async move {
            host.create_network(NewNetwork { name: format!("n{number}"), subnets, ..NewNetwork::default() }).await
        }));
    }
    let mut made = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(network) => made.push(network),
            Err(error) => assert!(error.to_string().contains("overlaps with 10.77."), "{error}"),
        }
    }
    assert_eq!(made.len(), 2);
    assert_ne!(made[0].vni, made[1].vni);
    let error = hosts[0].create_network(NewNetwork { name: made[0].name.clone(), ..NewNetwork::default() }).await.unwrap_err();
    assert_eq!(error.to_string(), format!("network with name {} already exists", made[0].name));
    // One in use stays; its endpoints are named.
    let endpoint = hosts[1].claim(&claim(&made[0].id, "db", None)).await.unwrap();
    let error = hosts[0].remove_network(&made[0].id).await.unwrap_err();
    assert_eq!(error.to_string(), format!("network {} has active endpoints: db on host2", made[0].name));
    hosts[1].release(&made[0].id, &endpoint.id).await.unwrap();
    hosts[0].remove_network(&made[0].id).await.unwrap();
    assert_eq!(hosts[0].remove_network(&made[0].id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(hosts[1].claim(&claim(&made[0].id, "db", None)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_engine_keeps_what_runs_and_a_dead_host_loses_it() {
    let Some(etcd) = Etcd::start() else { return };
    let other = etcd.member(2);
    let config = etcd.config(1);
    let first = Cluster::open(config.clone(), None).unwrap();
    first.restore(Vec::new());
    until(&first, "etcd answers", |view| view.connected).await;
    let network = first.create_network(web()).await.unwrap();
    let kept = first.claim(&claim(&network.id, "kept", None)).await.unwrap();
    let lost = first.claim(&claim(&network.id, "lost", None)).await.unwrap();
    let keeper = first.keeper().unwrap();
    drop(first);
    // Meanwhile something else renews the lease; longer than the lease would have lived.
    let renewing = tokio::spawn({
        let keeper: cluster::Keeper = serde_json::from_str(&serde_json::to_string(&keeper).unwrap()).unwrap();
        async move { keeper.run().await }
    });
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(other.view().on(&network.id).count(), 2);
    let second = Cluster::open(config, Some(keeper.lease())).unwrap();
    until(&second, "etcd answers", |view| view.connected).await;
    second.restore(vec![kept.clone()]);
    let only_kept = |view: &View| view.on(&network.id).map(|endpoint| &endpoint.id).eq([&kept.id]);
    until(&other, "what the engine no longer has is gone", only_kept).await;
    assert_eq!(second.keeper().unwrap().lease(), keeper.lease());
    // The address is free again, and kept's is not.
    assert_eq!(other.claim(&claim(&network.id, "new", Some(&lost.address.to_string()))).await.unwrap().address, lost.address);
    assert!(other.claim(&claim(&network.id, "new", Some(&kept.address.to_string()))).await.is_err());
    drop(second);
    renewing.abort();
    until(&other, "the dead host's endpoint is gone", |view| view.on(&network.id).all(|endpoint| endpoint.id != kept.id)).await;
    until(&other, "the dead host is gone", |view| view.hosts.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_changes_nothing_and_a_restored_backup_is_completed() {
    let Some(mut etcd) = Etcd::start() else { return };
    let (here, there) = (etcd.member(1), etcd.member(2));
    until(&here, "etcd answers", |view| view.connected).await;
    let network = here.create_network(web()).await.unwrap();
    let before = here.claim(&claim(&network.id, "before", None)).await.unwrap();
    until(&there, "the endpoint is known", |view| view.on(&network.id).count() == 1).await;
    etcd.kill();
    let backup = etcd.dir.path().join("backup");
    copy(&etcd.data(), &backup);
    until(&there, "the outage is noticed", |view| !view.connected).await;
    assert_eq!(there.view().on(&network.id).count(), 1);
    let error = there.claim(&claim(&network.id, "during", None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.hint().unwrap().contains("containers that run go on"), "{error}");
    etcd.run();
    for host in [&here, &there] {
        until(host, "etcd is back", |view| view.connected).await;
    }
    let after = there.claim(&claim(&network.id, "after", None)).await.unwrap();
    assert_ne!(after.address, before.address);
    until(&here, "news come again", |view| view.on(&network.id).count() == 2).await;
    // The store is put back to a state that does not know of the second endpoint: its host enters it again.
    etcd.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    copy(&backup, &etcd.data());
    etcd.run();
    for host in [&here, &there] {
        until(host, "etcd is back", |view| view.connected && view.on(&network.id).count() == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_contents_do_no_harm() {
    let Some(etcd) = Etcd::start() else { return };
    let here = etcd.member(1);
    until(&here, "etcd answers", |view| view.connected).await;
    let network = here.create_network(web()).await.unwrap();
    let ours = here.claim(&claim(&network.id, "ours", None)).await.unwrap();
    let mut client = etcd.client().await;
    let stranger = Id::random();
    let forged = Endpoint { id: Id::random(), host: stranger.clone(), ..ours.clone() };
    for (key, value) in [
        (format!("/cais/1/networks/{stranger}"), "{}".to_owned()),
        (format!("/cais/1/networks/{}", Id::random()), serde_json::to_string(&*network).unwrap()),
        (format!("/cais/1/hosts/{stranger}"), "x".repeat(100_000)),
        (format!("/cais/1/endpoints/{}/{}", network.id, forged.id), serde_json::to_string(&forged).unwrap()),
        ("/cais/1/nonsense".to_owned(), String::new()),
        ("/cais/1/networks/../../x".to_owned(), String::new()),
    ] {
        client.put(key, value, None).await.unwrap();
    }
    client.put("/cais/1/ledger", "later", None).await.unwrap();
    let next = here.create_network(NewNetwork { name: "next".to_owned(), ..NewNetwork::default() }).await.unwrap();
    let view = until(&here, "all is read", |view| view.networks.contains_key(&next.id)).await;
    assert_eq!(view.networks.len(), 2);
    assert!(view.refused >= 3, "{view:?}");
    // Somebody else's host that claims our endpoint's addresses is not sent our packets.
    assert!(view.remote(&network.id, here.host()).is_empty());
    // A record of ours that was taken away comes back, and with it the address.
    client.delete(format!("/cais/1/endpoints/{}/{}", network.id, ours.id), None).await.unwrap();
    until(&here, "ours is back", |view| view.on(&network.id).any(|endpoint| endpoint.id == ours.id)).await;
    // A revision that is compacted away is no reason to stop.
    let revision = here.view().revision;
    client.compact(revision, None).await.unwrap();
    let late = etcd.member(2);
    until(&late, "a newcomer reads what is left", |view| view.connected && view.networks.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_asks_for_a_user() {
    let Some(etcd) = Etcd::start() else { return };
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let named = Cluster::open(Config { user: Some(("root".to_owned(), "secret".to_owned())), ..etcd.config(1) }, None).unwrap();
    named.restore(Vec::new());
    until(&named, "etcd lets the user in", |view| view.connected).await;
    named.create_network(web()).await.unwrap();
    for user in [None, Some(("root".to_owned(), "guess".to_owned()))] {
        let stranger = Cluster::open(Config { user, ..etcd.config(2) }, None).unwrap();
        let error = stranger.create_network(NewNetwork { name: "other".to_owned(), ..NewNetwork::default() }).await.unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("check cluster-store-user and its rights on the prefix"), "{error:?}");
        assert!(!stranger.view().connected);
    }
}
