//! Networks.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::request::{CreateNetwork, NetworkPool};
use engine::{Engine, NetworkView};
use hyper::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use types::container::{EndpointSettings, List, Map};
use types::lenient;

use crate::containers::bad_json;
use crate::error::Failure;
use crate::http::{self, Outcome, Request, no_content, ok, to_the_end};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    name: String,
    driver: String,
    scope: String,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFrom>,
    #[serde(rename = "EnableIPv4")]
    ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<IpamBody>,
    options: Map<String>,
    labels: Map<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct IpamBody {
    driver: String,
    options: Map<String>,
    config: List<PoolBody>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct PoolBody {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    auxiliary_addresses: Map<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConnectBody {
    container: String,
    endpoint_config: Option<EndpointSettings>,
    force: bool,
}

pub async fn list(engine: Arc<Engine>, request: Request) -> Outcome {
    let networks = engine.list_networks(&request.query.filters()?)?;
    ok(&networks.iter().map(encode).collect::<Vec<_>>())
}

pub async fn inspect(engine: Arc<Engine>, name: &str) -> Outcome {
    let view = engine.inspect_network(name)?;
    let mut shown = encode(&view);
    let users = view.containers.iter().map(|(id, user)| {
        let shown = json!({
            "Name": user.name,
            "EndpointID": user.endpoint_id,
            "MacAddress": user.mac_address,
            "IPv4Address": user.ipv4_address,
            "IPv6Address": user.ipv6_address,
        });
        (id.to_string(), shown)
    });
    if view.network.carrier.is_some() {
        let peer = |(name, address): &(String, std::net::IpAddr)| json!({ "Name": name, "IP": address });
        shown["Peers"] = json!(view.peers.iter().map(peer).collect::<Vec<_>>());
    }
    shown["Containers"] = json!(users.collect::<BTreeMap<_, _>>());
    ok(&shown)
}

pub async fn create(engine: Arc<Engine>, request: Request) -> Outcome {
    let body: CreateBody = lenient::from_slice(&request.bytes().await?).map_err(bad_json)?;
    let ipam = body.ipam.unwrap_or_default();
    let refused = [
        (body.ingress, "Ingress"),
        (!["", "local"].contains(&body.scope.as_str()) && !(body.driver == "overlay" && body.scope == "global"), "Scope"),
        (!["", "default"].contains(&ipam.driver.as_str()), "IPAM.Driver"),
    ];
    if let Some((_, field)) = refused.iter().find(|(asked, _)| *asked) {
        return Err(Failure::not_served(field));
    }
    let pool = |pool: PoolBody| NetworkPool {
        subnet: pool.subnet,
        ip_range: pool.ip_range,
        gateway: pool.gateway,
        auxiliary: pool.auxiliary_addresses.into_map(),
    };
    let wanted = CreateNetwork {
        name: body.name,
        driver: body.driver,
        ipv4: body.ipv4.unwrap_or(true),
        ipv6: body.ipv6.unwrap_or(false),
        config_only: body.config_only,
        config_from: body.config_from.unwrap_or_default().network,
        ipam_options: ipam.options.into_map(),
        internal: body.internal,
        attachable: body.attachable,
        pools: ipam.config.into_vec().into_iter().map(pool).collect(),
        options: body.options.into_map(),
        labels: body.labels.into_map(),
    };
    let network = to_the_end(async move { engine.create_network(wanted).await }).await?;
    http::json(StatusCode::CREATED, &json!({ "Id": network.id, "Warning": "" }))
}

pub async fn connect(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let body: ConnectBody = lenient::from_slice(&request.bytes().await?).map_err(bad_json)?;
    let name = name.to_owned();
    let asked = body.endpoint_config.unwrap_or_default();
    to_the_end(async move { engine.connect_network(&name, &body.container, asked).await }).await?;
    Ok(http::empty(StatusCode::OK))
}

pub async fn disconnect(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let body: ConnectBody = lenient::from_slice(&request.bytes().await?).map_err(bad_json)?;
    let name = name.to_owned();
    to_the_end(async move { engine.disconnect_network(&name, &body.container, body.force).await }).await?;
    Ok(http::empty(StatusCode::OK))
}

pub async fn prune(engine: Arc<Engine>, request: Request) -> Outcome {
    let filters = request.query.filters()?;
    let deleted = to_the_end(async move { engine.prune_networks(filters).await }).await?;
    ok(&json!({ "NetworksDeleted": Some(deleted).filter(|deleted| !deleted.is_empty()) }))
}

pub async fn remove(engine: Arc<Engine>, name: &str) -> Outcome {
    let name = name.to_owned();
    to_the_end(async move { engine.remove_network(&name).await }).await?;
    no_content()
}

fn encode(view: &NetworkView) -> Value {
    let network = &*view.network;
    let created = Timestamp::try_from(network.created).map(|time| time.to_string()).unwrap_or_default();
    let mut pools = Vec::new();
    if let Some(subnet) = network.subnet {
        pools.push(encode_pool(subnet, network.ip_range, network.gateway, &network.auxiliary));
    }
    if let Some((ipv6, subnet)) = network.ipv6.as_ref().and_then(|ipv6| Some((ipv6, ipv6.subnet?))) {
        pools.push(encode_pool(subnet, ipv6.ip_range, ipv6.gateway, &ipv6.auxiliary));
    }
    let config = Some(pools).filter(|pools| !pools.is_empty());
    let ipam_options = Some(&network.ipam_options).filter(|options| !options.is_empty());
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": created,
        "Scope": network.driver.scope(),
        "Driver": network.driver.as_str(),
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6.is_some(),
        "IPAM": { "Driver": "default", "Options": ipam_options, "Config": config },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": network.config_from },
        "ConfigOnly": network.config_only,
        "Options": network.options,
        "Labels": network.labels,
    })
}

fn encode_pool(subnet: impl ToString, range: Option<impl ToString>, gateway: Option<impl Serialize>, auxiliary: &impl Serialize) -> Value {
    let mut pool = json!({ "Subnet": subnet.to_string() });
    if let Some(range) = range {
        pool["IPRange"] = json!(range.to_string());
    }
    if let Some(gateway) = gateway {
        pool["Gateway"] = json!(gateway);
    }
    let auxiliary = json!(auxiliary);
    if auxiliary.as_object().is_some_and(|map| !map.is_empty()) {
        pool["AuxiliaryAddresses"] = auxiliary;
    }
    pool
}
