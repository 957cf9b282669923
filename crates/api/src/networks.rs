//! Networks: the built-in ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Engine, NetworkView};
use jiff::Timestamp;
use serde_json::{Value, json};
use types::ErrorKind;

use crate::error::Failure;
use crate::http::{Outcome, Request, ok};

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
            "IPv6Address": "",
        });
        (id.to_string(), shown)
    });
    shown["Containers"] = json!(users.collect::<BTreeMap<_, _>>());
    ok(&shown)
}

/// Every network that there is is in use by nature.
pub fn prune(_request: Request) -> Outcome {
    ok(&json!({ "NetworksDeleted": null }))
}

pub async fn remove(engine: Arc<Engine>, name: &str) -> Outcome {
    let view = engine.inspect_network(name)?;
    Err(Failure::new(ErrorKind::Forbidden, format!("{} is a pre-defined network and cannot be removed", view.network.name)))
}

fn encode(view: &NetworkView) -> Value {
    let network = &*view.network;
    let created = Timestamp::try_from(network.created).map(|time| time.to_string()).unwrap_or_default();
    let config = network.subnet.as_ref().map(|subnet| {
        let mut pool = json!({ "Subnet": subnet.to_string() });
        if let Some(gateway) = network.gateway {
            pool["Gateway"] = json!(gateway);
        }
        [pool]
    });
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": created,
        "Scope": "local",
        "Driver": network.driver.as_str(),
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": config },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Options": network.options,
        "Labels": network.labels,
    })
}
