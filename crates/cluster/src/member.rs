//! One engine's membership: networks, claims of addresses, and this host's own records.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use types::Id;

use crate::client::{self, within};
use crate::config::Config;
use crate::keeper::{self, Keeper};
use crate::record::{Endpoint, Host, Network, Prefix, Record};
use crate::view::{Keys, View};
use crate::{Error, Result, allocate, sync};

/// Tries against others who change the same things.
const TRIES_MAX: usize = 64;
/// How long a change of ours may take to come back as news.
const NEWS_MAX: Duration = Duration::from_secs(2);

/// A network to be made.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// Its ranges; none: a free one of IPv4.
    pub subnets: Vec<Prefix>,
    /// The bridges' address per range; none: the first of each.
    pub gateways: Vec<IpAddr>,
    /// The part of the IPv4 range that free addresses are taken from.
    pub ip_range: Option<Prefix>,
    /// Addresses of others, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Without a way out.
    pub internal: bool,
    /// Remembered for people.
    pub attachable: bool,
    /// Whether traffic between hosts is encrypted.
    pub encrypted: bool,
    /// Largest packet inside, in bytes.
    pub mtu: Option<u32>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ranges that this host uses otherwise: a free range keeps off them.
    pub avoid: Vec<Prefix>,
}

/// What is asked for a container.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The endpoint's identifier.
    pub endpoint: Id,
    /// The network's.
    pub network: Id,
    /// The container's.
    pub container: Id,
    /// The container's name.
    pub name: String,
    /// The names by which it is found.
    pub names: Vec<String>,
    /// Its address; none: a free one.
    pub address: Option<Ipv4Addr>,
    /// Its hardware address; none: one made of the address.
    pub mac: Option<[u8; 6]>,
}

/// A host among hosts. Everything that asks etcd fails within seconds when it is away; reading the view never asks.
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    view: watch::Receiver<Arc<View>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    config: Arc<Config>,
    keys: Keys,
    client: AsyncMutex<Option<Client>>,
    /// Zero: none yet.
    lease: watch::Sender<i64>,
    view: watch::Receiver<Arc<View>>,
    /// Held while a lease is made.
    granting: AsyncMutex<()>,
    /// What this host has, or is about to have, in the store.
    own: Mutex<Own>,
    tend: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Shared({} at {})", self.config.name, self.config.store)
    }
}

#[derive(Debug, Default)]
struct Own {
    endpoints: BTreeMap<Id, Held>,
    /// Endpoints on their way into the store: neither there for certain, nor left over.
    pending: Vec<Id>,
    /// Whether `endpoints` is complete: before that nothing of this host is removed.
    known: bool,
}

/// An endpoint that this host has put into the store.
#[derive(Debug, Clone)]
struct Held {
    endpoint: Endpoint,
    /// The reading and the revision of the view that has it at the earliest.
    since: (u64, i64),
}

impl Held {
    /// Whether a view should have it. Revisions of different readings do not compare: in between the store may have been put back.
    fn is_due(&self, view: &View) -> bool {
        let (reading, revision) = self.since;
        view.reading != reading || view.revision >= revision
    }
}

impl Own {
    fn knows(&self, id: &Id) -> bool {
        self.endpoints.contains_key(id) || self.pending.contains(id)
    }
}

impl Cluster {
    /// Begins to take part, with the lease of an earlier run if there is one. Does not wait for etcd.
    pub fn open(config: Config, lease: Option<i64>) -> Result<Self> {
        config.check()?;
        let host = Host { id: config.host.clone(), name: config.name.clone(), address: config.advertise, key: None };
        host.encode()?;
        let config = Arc::new(config);
        let keys = Keys::new(&config.store.prefix);
        let (sender, view) = watch::channel(Arc::new(View::default()));
        let shared = Arc::new(Shared {
            config: config.clone(),
            keys: keys.clone(),
            client: AsyncMutex::new(None),
            lease: watch::channel(lease.unwrap_or(0)).0,
            view: view.clone(),
            granting: AsyncMutex::new(()),
            own: Mutex::new(Own::default()),
            tend: Notify::new(),
        });
        let tasks = vec![
            tokio::spawn(sync::follow(config, keys, sender)),
            tokio::spawn(tend(shared.clone(), view.clone())),
            tokio::spawn(keep(shared.clone())),
        ];
        Ok(Self { shared, view, tasks })
    }

    /// What all hosts have, as far as this one knows.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Tells of every change of the view.
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// This host's identifier.
    pub fn host(&self) -> &Id {
        &self.shared.config.host
    }

    /// What others need to renew this host's lease; changes when the lease does. None until there is one.
    pub fn keeper(&self) -> Option<Keeper> {
        let lease = *self.shared.lease.borrow();
        (lease != 0).then(|| Keeper::new(&self.shared.config, lease))
    }

    /// Tells of every new lease.
    pub fn leases(&self) -> watch::Receiver<i64> {
        self.shared.lease.subscribe()
    }

    /// The endpoints of containers that run here, after a restart of the engine: what the store has of this host beyond them is removed, and what it lacks
    /// is put back. To be called once, also with none.
    pub fn restore(&self, endpoints: Vec<Endpoint>) {
        let mut own = self.shared.own();
        own.endpoints.extend(endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), Held { endpoint, since: (0, 0) })));
        own.known = true;
        drop(own);
        self.shared.tend.notify_one();
    }

    /// The endpoints that this host has in the store.
    pub fn held(&self) -> Vec<Endpoint> {
        self.shared.own().endpoints.values().map(|held| held.endpoint.clone()).collect()
    }

    /// Makes a network for all hosts.
    pub async fn create_network(&self, new: NewNetwork) -> Result<Arc<Network>> {
        const MAKE: &str = "make the network";
        let keys = &self.shared.keys;
        for _ in 0..TRIES_MAX {
            let (ledger, others) = self.shared.networks().await?;
            let network = lay_out(&new, &others)?;
            let unchanged = Compare::mod_revision(keys.ledger(), CompareOp::Equal, ledger);
            let puts = vec![TxnOp::put(keys.ledger(), "", None), TxnOp::put(keys.network(&network.id), network.encode()?, None)];
            let answer = self.shared.transact(MAKE, Txn::new().when(vec![unchanged]).and_then(puts)).await?;
            if answer.succeeded() {
                self.news(&answer).await;
                return Ok(Arc::new(network));
            }
        }
        Err(Error::Contended { operation: MAKE })
    }

    /// Removes a network that no endpoint of any host is on.
    pub async fn remove_network(&self, id: &Id) -> Result<()> {
        const REMOVE: &str = "remove the network";
        let keys = &self.shared.keys;
        let when = vec![
            Compare::version(keys.network(id), CompareOp::Greater, 0),
            Compare::create_revision(keys.addresses(id), CompareOp::Equal, 0).with_prefix(),
        ];
        let then = vec![TxnOp::delete(keys.network(id), None), TxnOp::put(keys.ledger(), "", None)];
        let otherwise = vec![TxnOp::get(keys.network(id), None)];
        let answer = self.shared.transact(REMOVE, Txn::new().when(when).and_then(then).or_else(otherwise)).await?;
        self.news(&answer).await;
        if answer.succeeded() {
            return Ok(());
        }
        let there = matches!(answer.op_responses().first(), Some(TxnOpResponse::Get(found)) if !found.kvs().is_empty());
        let view = self.view();
        match view.networks.get(id).filter(|_| there) {
            None => Err(Error::NoSuchNetwork { id: id.to_string() }),
            Some(network) => {
                let on = view.on(id).map(|endpoint| format!("{} on {}", endpoint.name, view.host_name(&endpoint.host)));
                Err(Error::InUse { name: network.name.clone(), endpoints: on.collect::<Vec<_>>().join(", ") })
            }
        }
    }

    /// Takes an address for a container: nobody else has it, and nobody else gets it while this host lives.
    pub async fn claim(&self, claim: &Claim) -> Result<Endpoint> {
        let mut lost = HashSet::new();
        for _ in 0..TRIES_MAX {
            let view = self.view();
            let network = view.networks.get(&claim.network).ok_or_else(|| Error::NoSuchNetwork { id: claim.network.to_string() })?;
            let address = claim.address.map_or_else(|| allocate::address(&view, network, &lost), Ok)?;
            if !network.has_room_for(IpAddr::V4(address)) {
                return Err(Error::Invalid {
                    what: format!("address {address}"),
                    reason: format!("it is not one for containers of {}", network.name),
                });
            }
            let endpoint = self.endpoint(claim, network, address);
            match self.shared.put_endpoint(&endpoint).await? {
                Put::Done(answer) => {
                    self.news(&answer).await;
                    return Ok(endpoint);
                }
                Put::NoNetwork => return Err(Error::NoSuchNetwork { id: claim.network.to_string() }),
                Put::Taken if claim.address.is_some() => {
                    let owner = allocate::owner(&view, &network.id, address);
                    return Err(Error::AddressTaken { address: IpAddr::V4(address), network: network.name.clone(), owner });
                }
                Put::Taken => _ = lost.insert(address),
            }
        }
        Err(Error::Contended { operation: "take an address" })
    }

    /// Gives an address back. When etcd is away that happens once it is back, or with the end of the lease.
    pub async fn release(&self, network: &Id, endpoint: &Id) -> Result<()> {
        let Some(held) = self.shared.own().endpoints.remove(endpoint).filter(|held| held.endpoint.network == *network) else {
            return Ok(());
        };
        self.shared.delete_endpoint(&held.endpoint).await
    }

    /// Changes the names by which a container is found.
    pub async fn rename(&self, endpoint: &Id, name: &str, names: Vec<String>) -> Result<()> {
        let renamed = {
            let mut own = self.shared.own();
            let Some(held) = own.endpoints.get_mut(endpoint) else { return Ok(()) };
            name.clone_into(&mut held.endpoint.name);
            held.endpoint.names = names;
            held.endpoint.clone()
        };
        match self.shared.put_endpoint(&renamed).await? {
            Put::Done(answer) => self.news(&answer).await,
            Put::Taken | Put::NoNetwork => self.shared.tend.notify_one(),
        }
        Ok(())
    }

    /// Leaves for good: nothing of this host stays in the store.
    pub async fn leave(&self) -> Result<()> {
        let lease = self.shared.lease.send_replace(0);
        self.shared.own().endpoints.clear();
        if lease == 0 {
            return Ok(());
        }
        let mut client = self.shared.client().await?;
        within("give the lease back", client.lease_revoke(lease)).await.map(|_| ())
    }

    fn endpoint(&self, claim: &Claim, network: &Network, address: Ipv4Addr) -> Endpoint {
        let [a, b, c, d] = address.octets();
        // The same place in the IPv6 range: one claim covers both.
        let place = u128::from(address.to_bits()) - network.subnets.first().map_or(0, |subnet| place_of(subnet.first()));
        let address6 = network.subnets.get(1).and_then(|subnet| subnet.nth(place)).and_then(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        Endpoint {
            id: claim.endpoint.clone(),
            network: claim.network.clone(),
            host: self.host().clone(),
            container: claim.container.clone(),
            name: claim.name.clone(),
            address,
            address6,
            mac: claim.mac.unwrap_or([0x02, 0x42, a, b, c, d]),
            names: claim.names.clone(),
        }
    }

    /// Waits until the view has a change of ours, so that who made it can read it. News that do not come are not worth a failure.
    async fn news(&self, answer: &TxnResponse) {
        let Some(revision) = answer.header().map(etcd_client::ResponseHeader::revision) else { return };
        let mut view = self.view.clone();
        let _ = tokio::time::timeout(NEWS_MAX, view.wait_for(|view| view.revision >= revision || !view.connected)).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What came of a claim.
enum Put {
    Done(TxnResponse),
    /// The address is another endpoint's.
    Taken,
    NoNetwork,
}

/// What is in the way of a claim.
enum Obstacle {
    NoNetwork,
    Taken,
    /// The endpoint has its addresses already.
    Itself,
    /// Nothing any more.
    Gone,
}

impl Shared {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self) -> Result<Client> {
        let mut client = self.client.lock().await;
        if client.is_none() {
            *client = Some(client::connect(&self.config.store, &self.config.tls, self.config.user.as_ref()).await?);
        }
        client.clone().ok_or(Error::Silent { operation: "connect" })
    }

    async fn transact(&self, operation: &'static str, txn: Txn) -> Result<TxnResponse> {
        within(operation, self.client().await?.txn(txn)).await
    }

    /// All networks, and the revision of the ledger that goes with them: it changes whenever they do.
    async fn networks(&self) -> Result<(i64, Vec<Network>)> {
        let gets = vec![TxnOp::get(self.keys.ledger(), None), TxnOp::get(self.keys.networks(), Some(GetOptions::new().with_prefix()))];
        let answer = self.transact("read the networks", Txn::new().and_then(gets)).await?;
        let mut ledger = 0;
        let mut networks = Vec::new();
        for (index, part) in answer.op_responses().into_iter().enumerate() {
            let TxnOpResponse::Get(found) = part else { continue };
            match index {
                0 => ledger = found.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision),
                _ => networks = found.kvs().iter().filter_map(|pair| Network::decode(pair.value()).ok()).collect(),
            }
        }
        Ok((ledger, networks))
    }

    /// Writes an endpoint and takes its addresses, in one transaction. What is this endpoint's already stays so.
    async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<Put> {
        const TAKE: &str = "take an address";
        let value = endpoint.encode()?;
        self.own().pending.push(endpoint.id.clone());
        let outcome = async {
            let mut held = false;
            for _ in 0..TRIES_MAX {
                let lease = self.lease().await?;
                let answer = match self.transact(TAKE, self.claim_txn(endpoint, &value, lease, held)).await {
                    Err(Error::Etcd { source, .. }) if is_lease_lost(&source) => {
                        self.renounce(lease);
                        continue;
                    }
                    answer => answer?,
                };
                if answer.succeeded() {
                    return Ok(Put::Done(answer));
                }
                match self.obstacle(endpoint, &answer).await? {
                    Obstacle::NoNetwork => return Ok(Put::NoNetwork),
                    Obstacle::Taken => return Ok(Put::Taken),
                    Obstacle::Itself => held = true,
                    Obstacle::Gone => held = false,
                }
            }
            Err(Error::Contended { operation: TAKE })
        };
        let outcome = outcome.await;
        let mut own = self.own();
        if let Some(place) = own.pending.iter().position(|id| *id == endpoint.id) {
            own.pending.swap_remove(place);
        }
        match &outcome {
            Ok(Put::Done(answer)) => {
                let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                let since = (self.view.borrow().reading, revision);
                own.endpoints.insert(endpoint.id.clone(), Held { endpoint: endpoint.clone(), since });
            }
            Ok(Put::Taken | Put::NoNetwork) => _ = own.endpoints.remove(&endpoint.id),
            // Nobody knows whether it was written. What was held is to be written again, all else is to go.
            Err(_) => self.tend.notify_one(),
        }
        outcome
    }

    /// Takes addresses that are nobody's, or with `held` writes anew what is this endpoint's already.
    fn claim_txn(&self, endpoint: &Endpoint, value: &[u8], lease: i64, held: bool) -> Txn {
        let keys = &self.keys;
        let with_lease = || Some(PutOptions::new().with_lease(lease));
        let mut when = vec![Compare::version(keys.network(&endpoint.network), CompareOp::Greater, 0)];
        let mut then = vec![TxnOp::put(keys.endpoint(&endpoint.network, &endpoint.id), value, with_lease())];
        let mut otherwise = vec![TxnOp::get(keys.network(&endpoint.network), None)];
        for address in addresses(endpoint) {
            let key = keys.address(&endpoint.network, address);
            when.push(match held {
                true => Compare::value(key.clone(), CompareOp::Equal, endpoint.id.as_str()),
                // A key that is not there compares as version 0.
                false => Compare::version(key.clone(), CompareOp::Equal, 0),
            });
            then.push(TxnOp::put(key.clone(), endpoint.id.as_str(), with_lease()));
            otherwise.push(TxnOp::get(key, None));
        }
        Txn::new().when(when).and_then(then).or_else(otherwise)
    }

    /// Why a claim failed. What an endpoint of this host that is no more has left is removed.
    async fn obstacle(&self, endpoint: &Endpoint, answer: &TxnResponse) -> Result<Obstacle> {
        let mut pairs = Vec::new();
        for (index, part) in answer.op_responses().into_iter().enumerate() {
            let TxnOpResponse::Get(found) = part else { continue };
            match found.kvs().first() {
                None if index == 0 => return Ok(Obstacle::NoNetwork),
                Some(pair) if index > 0 => pairs.push((pair.key().to_vec(), pair.value().to_vec(), pair.mod_revision())),
                _ => {}
            }
        }
        let itself = |holder: &[u8]| holder == endpoint.id.as_str().as_bytes();
        if pairs.len() == addresses(endpoint).count() && pairs.iter().all(|(_, holder, _)| itself(holder)) {
            return Ok(Obstacle::Itself);
        }
        for (key, holder, revision) in pairs {
            if !itself(&holder) && !self.is_abandoned(endpoint, &holder).await? {
                return Ok(Obstacle::Taken);
            }
            let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
            self.transact("take an address", Txn::new().when(vec![unchanged]).and_then(vec![TxnOp::delete(key, None)])).await?;
        }
        Ok(Obstacle::Gone)
    }

    /// Whether the holder of an address is an endpoint of this host that is no more, or none at all.
    async fn is_abandoned(&self, endpoint: &Endpoint, holder: &[u8]) -> Result<bool> {
        let Some(holder) = std::str::from_utf8(holder).ok().and_then(|text| text.parse::<Id>().ok()) else { return Ok(false) };
        {
            let own = self.own();
            if !own.known || own.knows(&holder) {
                return Ok(false);
            }
        }
        let found = within("look up an endpoint", self.client().await?.get(self.keys.endpoint(&endpoint.network, &holder), None)).await?;
        let record = found.kvs().first().and_then(|pair| Endpoint::decode(pair.value()).ok());
        Ok(record.is_some_and(|record| record.host == self.config.host))
    }

    /// Removes an endpoint and its addresses, as far as they are its own.
    async fn delete_endpoint(&self, endpoint: &Endpoint) -> Result<()> {
        let keys = &self.keys;
        let mut then = vec![TxnOp::delete(keys.endpoint(&endpoint.network, &endpoint.id), None)];
        for address in addresses(endpoint) {
            let key = keys.address(&endpoint.network, address);
            let own = Compare::value(key.clone(), CompareOp::Equal, endpoint.id.as_str());
            let delete = TxnOp::delete(key, Some(DeleteOptions::new()));
            then.push(TxnOp::txn(Txn::new().when(vec![own]).and_then(vec![delete])));
        }
        self.transact("give an address back", Txn::new().and_then(then)).await.map(|_| ())
    }

    /// The lease, granted and entered as this host's if there is none.
    async fn lease(&self) -> Result<i64> {
        let _granting = self.granting.lock().await;
        let known = *self.lease.borrow();
        if known != 0 {
            return Ok(known);
        }
        let mut client = self.client().await?;
        let granted = within("get a lease", client.lease_grant(i64::from(self.config.ttl_secs), None)).await?;
        let host = Host { id: self.config.host.clone(), name: self.config.name.clone(), address: self.config.advertise, key: None };
        let options = PutOptions::new().with_lease(granted.id());
        within("enter this host", client.put(self.keys.host(&self.config.host), host.encode()?, Some(options))).await?;
        self.lease.send_replace(granted.id());
        Ok(granted.id())
    }

    /// Forgets a lease that is no more.
    fn renounce(&self, lost: i64) {
        self.lease.send_if_modified(|lease| {
            let was = *lease == lost;
            if was {
                *lease = 0;
            }
            was
        });
    }
}

/// Sees to it that the store has this host's records, and no others of it: after an outage, a lost lease, a restart, and whatever went wrong halfway.
async fn tend(shared: Arc<Shared>, mut view: watch::Receiver<Arc<View>>) {
    const RETRY: Duration = Duration::from_secs(1);
    loop {
        let now = view.borrow_and_update().clone();
        let done = if now.connected { tend_once(&shared, &now).await } else { Ok(()) };
        if let Err(error) = done {
            tracing::debug!(error = types::error::chain(&error), "this host's records in the cluster store are not complete");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            () = shared.tend.notified() => {}
        }
    }
}

async fn tend_once(shared: &Shared, view: &View) -> Result<()> {
    let host = &shared.config.host;
    let own = {
        let own = shared.own();
        if !own.known {
            return Ok(());
        }
        own.endpoints.clone()
    };
    let entered = view.hosts.get(host).is_some_and(|entry| entry.address == shared.config.advertise && entry.name == shared.config.name);
    if !entered {
        // The view may be older than the lease: a lease that lives is kept, and only the entry is written again.
        let lease = *shared.lease.borrow();
        if lease != 0 && !keeper::renew(&mut shared.client().await?, lease).await? {
            shared.renounce(lease);
        }
        let lease = shared.lease().await?;
        let entry = Host { id: host.clone(), name: shared.config.name.clone(), address: shared.config.advertise, key: None };
        let options = PutOptions::new().with_lease(lease);
        within("enter this host", shared.client().await?.put(shared.keys.host(host), entry.encode()?, Some(options))).await?;
    }
    for stale in view.endpoints.values().filter(|endpoint| endpoint.host == *host && !own.contains_key(&endpoint.id)) {
        // Looked at again: it may have come since.
        if !shared.own().knows(&stale.id) {
            shared.delete_endpoint(stale).await?;
        }
    }
    for Held { endpoint, since } in own.values().filter(|held| held.is_due(view)) {
        let there = view.endpoints.get(&(endpoint.network.clone(), endpoint.id.clone())).is_some_and(|there| **there == *endpoint);
        let unchanged = shared.own().endpoints.get(&endpoint.id).is_some_and(|held| held.since == *since);
        if there || !unchanged {
            continue;
        }
        match shared.put_endpoint(endpoint).await? {
            Put::Done(_) => {}
            Put::Taken => tracing::error!(
                container = endpoint.name,
                address = %endpoint.address,
                "another host took this container's address while this host was away: restart the container to give it a new one"
            ),
            Put::NoNetwork => {
                tracing::error!(container = endpoint.name, "the overlay network of this container was removed while this host was away")
            }
        }
    }
    Ok(())
}

/// Renews the lease while the engine lives.
async fn keep(shared: Arc<Shared>) {
    let mut leases = shared.lease.subscribe();
    loop {
        let lease = *leases.borrow_and_update();
        if lease == 0 {
            if leases.changed().await.is_err() {
                return;
            }
            continue;
        }
        let keeper = Keeper::new(&shared.config, lease);
        tokio::select! {
            ended = keeper.run() => {
                if ended.is_ok() {
                    shared.renounce(lease);
                    shared.tend.notify_one();
                } else {
                    return;
                }
            }
            changed = leases.changed() => if changed.is_err() { return },
        }
    }
}

/// A network as it is to be, given the others.
fn lay_out(new: &NewNetwork, others: &[Network]) -> Result<Network> {
    let subnets = if new.subnets.is_empty() { vec![allocate::subnet(others.iter(), &new.avoid)?] } else { new.subnets.clone() };
    allocate::check(&new.name, &subnets, others.iter())?;
    let gateways = subnets.iter().enumerate().map(|(index, subnet)| {
        let first =
            || subnet.nth(1).ok_or_else(|| Error::Invalid { what: format!("subnet {subnet}"), reason: "it is too small".to_owned() });
        new.gateways.get(index).copied().map_or_else(first, Ok)
    });
    let network = Network {
        id: Id::random(),
        name: new.name.clone(),
        vni: allocate::vni(others.iter())?,
        gateways: gateways.collect::<Result<_>>()?,
        subnets,
        ip_range: new.ip_range,
        auxiliary: new.auxiliary.clone(),
        internal: new.internal,
        attachable: new.attachable,
        encrypted: new.encrypted,
        mtu: new.mtu,
        options: new.options.clone(),
        labels: new.labels.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    match network.fault() {
        Some(reason) => Err(Error::Invalid { what: format!("network {}", network.name), reason }),
        None => Ok(network),
    }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    [Some(IpAddr::V4(endpoint.address)), endpoint.address6.map(IpAddr::V6)].into_iter().flatten()
}

fn place_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn is_lease_lost(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("lease not found"))
}
