//! A container's networks: what is asked for and what it got.

use serde::{Deserialize, Serialize};

use super::host::PortMap;
use crate::nullable::{List, Map};

/// Networks to join at creation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkingConfig {
    /// By name or id of the network.
    pub endpoints_config: Map<EndpointSettings>,
}

/// A container's place in one network. The upper fields are asked for, the lower ones observed (and ignored in a request, as Docker does).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// Fixed addresses.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// `container[:alias]`.
    pub links: List<String>,
    /// Hardware address.
    pub mac_address: String,
    /// More names in this network.
    pub aliases: List<String>,
    /// Options for the network's driver.
    pub driver_opts: Map<String>,
    /// Which network gives the default gateway: the highest.
    pub gw_priority: i64,
    /// The network's id.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint's id; empty while the container does not run.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Length of the IPv4 prefix.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Length of the IPv6 prefix.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// Names under which it is found in this network.
    #[serde(rename = "DNSNames")]
    pub dns_names: List<String>,
}

/// Fixed addresses of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpam {
    /// IPv4 address.
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    /// IPv6 address.
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
    /// Link-local addresses.
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "List::is_null")]
    pub link_local_ips: List<String>,
}

/// What a container has of networks now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// Id of the sandbox; empty while it does not run.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Path of the network namespace; empty while it does not run.
    pub sandbox_key: String,
    /// Every exposed port, with `null` where it is not published. Empty while it does not run.
    pub ports: PortMap,
    /// By name of the network.
    pub networks: Map<EndpointSettings>,
}
