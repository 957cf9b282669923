//! What the Engine API answers about networks, byte for byte where clients read it: the answers of Docker 29 at several versions, reduced to what a client sees.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::engine::BUSYBOX;
use tests::{Engine, http};

const VERSIONS: [&str; 3] = ["1.41", "1.44", "1.51"];

/// The keys of a network, as all versions have them.
const KEYS: [&str; 15] = [
    "Attachable",
    "ConfigFrom",
    "ConfigOnly",
    "Created",
    "Driver",
    "EnableIPv4",
    "EnableIPv6",
    "IPAM",
    "Id",
    "Ingress",
    "Internal",
    "Labels",
    "Name",
    "Options",
    "Scope",
];

struct Api<'a> {
    engine: &'a Engine,
    version: &'a str,
}

impl Api<'_> {
    /// The status and the body; `null` where there is none.
    fn ask(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value)> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http::unix(&self.engine.socket(), method, &format!("/v{}{path}", self.version), &text)?;
        let body = if answer.body.is_empty() { Value::Null } else { serde_json::from_str(&answer.body).context(answer.body)? };
        Ok((answer.status, body))
    }

    fn expect(&self, method: &str, path: &str, body: Value, status: u16) -> Result<Value> {
        let (got, answer) = self.ask(method, path, body)?;
        ensure!(got == status, "{method} {path} at {}: {got} instead of {status}: {answer}", self.version);
        Ok(answer)
    }

    fn refused(&self, method: &str, path: &str, body: Value, status: u16, message: &str) -> Result<()> {
        let answer = self.expect(method, path, body, status)?;
        ensure!(answer == json!({ "message": message }), "{method} {path} at {}: {answer} instead of {message:?}", self.version);
        Ok(())
    }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn answers_about_networks_are_dockers() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("golden-networks")?;
    for version in VERSIONS {
        let api = Api { engine: &engine, version };
        built_in(&api)?;
        made(&api)?;
    }
    Ok(())
}

fn built_in(api: &Api<'_>) -> Result<()> {
    let all = api.expect("GET", "/networks", Value::Null, 200)?;
    let all = all.as_array().context("a list")?;
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        let network = all.iter().find(|network| network["Name"] == name).with_context(|| format!("no {name}"))?;
        ensure!(keys(network) == KEYS, "{name}: {:?}", keys(network));
        ensure!(network["Driver"] == driver && network["Scope"] == "local" && network["EnableIPv4"] == true, "{network}");
        if name != "bridge" {
            let ipam = json!({"Driver": "default", "Options": null, "Config": null});
            ensure!(network["IPAM"] == ipam && network["Options"] == json!({}), "{network}");
        }
    }
    let bridge = api.expect("GET", "/networks/bridge", Value::Null, 200)?;
    let options = &bridge["Options"];
    for option in ["default_bridge", "enable_icc", "enable_ip_masquerade"] {
        ensure!(options[format!("com.docker.network.bridge.{option}")] == "true", "{options}");
    }
    ensure!(options["com.docker.network.bridge.host_binding_ipv4"] == "0.0.0.0", "{options}");
    ensure!(options["com.docker.network.driver.mtu"].is_string() && bridge["Containers"] == json!({}), "{bridge}");
    api.refused("DELETE", "/networks/bridge", Value::Null, 403, "bridge is a pre-defined network and cannot be removed")?;
    api.refused("POST", "/networks/create", json!({"Name": "host"}), 403, "operation is not permitted on predefined host network ")?;
    api.refused("GET", "/networks/gn", Value::Null, 404, "network gn not found")?;
    api.refused("POST", "/networks/create", json!({"Name": "gn4", "Driver": "nosuch"}), 404, "plugin \"nosuch\" not found")?;
    let banana = json!({"Name": "gn3", "IPAM": {"Config": [{"Subnet": "banana"}]}});
    api.expect("POST", "/networks/create", banana, 400)?;
    Ok(())
}

fn made(api: &Api<'_>) -> Result<()> {
    // Engines that run at the same time share the host, and so its subnets.
    let net = format!("172.25.{}", std::process::id() % 250);
    let (subnet, gateway, fixed) = (format!("{net}.0/24"), format!("{net}.1"), format!("{net}.77"));
    let create = json!({
        "Name": "gn", "CheckDuplicate": true, "Labels": {"a": "b"}, "IPAM": {"Config": [{"Subnet": subnet, "Gateway": gateway}]},
    });
    let answer = api.expect("POST", "/networks/create", create, 201)?;
    ensure!(keys(&answer) == ["Id", "Warning"] && answer["Warning"] == "", "{answer}");
    let id = answer["Id"].as_str().context("an id")?.to_owned();
    api.refused("POST", "/networks/create", json!({"Name": "gn", "CheckDuplicate": true}), 409, "network with name gn already exists")?;
    let overlap = json!({"Name": "gn2", "IPAM": {"Config": [{"Subnet": subnet}]}});
    api.refused("POST", "/networks/create", overlap, 403, "invalid pool request: Pool overlaps with other one on this address space")?;

    let container = json!({
        "Image": BUSYBOX, "Cmd": ["sleep", "300"], "HostConfig": {"NetworkMode": "gn"},
        "NetworkingConfig": {"EndpointsConfig": {"gn": {"Aliases": ["al"], "IPAMConfig": {"IPv4Address": fixed}}}},
    });
    let created = api.expect("POST", "/containers/create?name=g3", container, 201)?;
    let container = created["Id"].as_str().context("an id")?.to_owned();
    api.expect("POST", "/containers/g3/start", Value::Null, 204)?;
    let shown = api.expect("GET", "/containers/g3/json", Value::Null, 200)?;
    let mut endpoint = shown["NetworkSettings"]["Networks"]["gn"].clone();
    let short = &container[..12];
    for (key, value) in [
        ("IPAMConfig", json!({"IPv4Address": fixed})),
        ("Links", Value::Null),
        ("DriverOpts", Value::Null),
        ("NetworkID", json!(id)),
        ("Gateway", json!(gateway)),
        ("IPAddress", json!(fixed)),
        ("IPPrefixLen", json!(24)),
        ("IPv6Gateway", json!("")),
        ("GlobalIPv6Address", json!("")),
        ("GlobalIPv6PrefixLen", json!(0)),
    ] {
        let got = endpoint.as_object_mut().and_then(|map| map.remove(key));
        ensure!(got.as_ref() == Some(&value), "{key} at {}: {got:?} instead of {value}", api.version);
    }
    ensure!(endpoint["Aliases"][0] == "al", "at {}: {endpoint}", api.version);
    ensure!(endpoint["DNSNames"] == json!(["g3", "al", short]), "at {}: {endpoint}", api.version);

    let network = api.expect("GET", "/networks/gn", Value::Null, 200)?;
    let user = &network["Containers"][&container];
    ensure!(keys(user) == ["EndpointID", "IPv4Address", "IPv6Address", "MacAddress", "Name"], "{user}");
    ensure!(user["Name"] == "g3" && user["IPv4Address"] == format!("{fixed}/24") && user["IPv6Address"] == "", "{user}");
    ensure!(network["Labels"] == json!({"a": "b"}) && network["Options"] == json!({}), "{network}");
    let ipam = json!({"Driver": "default", "Options": null, "Config": [{"Subnet": subnet, "Gateway": gateway}]});
    ensure!(network["IPAM"] == ipam && network["ConfigFrom"] == json!({"Network": ""}), "{network}");

    let (status, busy) = api.ask("DELETE", "/networks/gn", Value::Null)?;
    let named = busy["message"].as_str().unwrap_or_default();
    ensure!(
        status == 403 && named.starts_with("error while removing network: network gn has active endpoints (name:\"g3\" id:\""),
        "{busy}"
    );
    let who = json!({"Container": "g3"});
    api.expect("POST", "/networks/bridge/connect", who.clone(), 200)?;
    api.refused("POST", "/networks/bridge/connect", who.clone(), 403, "endpoint with name g3 already exists in network bridge")?;
    api.expect("POST", "/networks/bridge/disconnect", who.clone(), 200)?;
    let gone = format!("container {container} is not connected to network bridge");
    api.refused("POST", "/networks/bridge/disconnect", who, 500, &gone)?;
    api.expect("DELETE", "/containers/g3?force=1", Value::Null, 204)?;
    api.expect("DELETE", "/networks/gn", Value::Null, 204)?;
    let pruned = api.expect("POST", "/networks/prune", Value::Null, 200)?;
    ensure!(pruned == json!({"NetworksDeleted": null}), "{pruned}");
    Ok(())
}
