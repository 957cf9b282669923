//! Driver options of networks: which there are, and what they may say.

use crate::{Driver, Error, NewNetwork, Result, link};

/// How much smaller than the usual packets may be; IPv6 needs more.
const MTU_MIN: u32 = 576;
const MTU_MIN_IPV6: u32 = 1280;
const MTU_MAX: u32 = 65_535;

/// Their names.
pub(crate) mod option {
    pub const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
    pub const MTU: &str = "com.docker.network.driver.mtu";
    pub const ICC: &str = "com.docker.network.bridge.enable_icc";
    pub const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    /// The host's address that ports are published at where the container asks for none.
    pub const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    /// What interfaces inside are called, with a number behind: `eth` by default.
    pub const PREFIX: &str = "com.docker.network.container_iface_prefix";
    pub const PARENT: &str = "parent";
    pub const MACVLAN_MODE: &str = "macvlan_mode";
    pub const IPVLAN_MODE: &str = "ipvlan_mode";
    pub const IPVLAN_FLAG: &str = "ipvlan_flag";
    /// Whether the host reaches its macvlan containers, or the address that it has towards them.
    pub const HOST_ACCESS: &str = "host_access";
}

/// Checks all that is given: options that change nothing would promise what is not kept.
pub(crate) fn check(new: &NewNetwork) -> Result<()> {
    let bad = |reason: String| Error::BadNetwork { reason };
    let known: &[&str] = match new.driver {
        Driver::Macvlan => &[option::PARENT, option::MACVLAN_MODE, option::HOST_ACCESS, option::MTU, option::PREFIX],
        Driver::Ipvlan => &[option::PARENT, option::IPVLAN_MODE, option::IPVLAN_FLAG, option::MTU, option::PREFIX],
        _ => &[option::BRIDGE_NAME, option::MTU, option::ICC, option::MASQUERADE, option::HOST_BINDING, option::PREFIX],
    };
    let mtu_min = if new.ipv6.is_some() { MTU_MIN_IPV6 } else { MTU_MIN };
    for (name, value) in &new.options {
        match name.as_str() {
            other if !known.contains(&other) => return Err(bad(format!("the option {other} of a network is not served"))),
            option::BRIDGE_NAME | option::PARENT => link::check_name(value)?,
            // Room for a number.
            option::PREFIX => link::check_name(&format!("{value}000"))?,
            option::MTU if !value.parse().is_ok_and(|mtu: u32| (mtu_min..=MTU_MAX).contains(&mtu)) => {
                return Err(bad(format!("{value:?} is not a packet size: {mtu_min} to {MTU_MAX} is expected")));
            }
            option::ICC | option::MASQUERADE if truth(value).is_none() => {
                return Err(bad(format!("the option {name} is neither true nor false: {value:?}")));
            }
            option::HOST_BINDING if value.parse::<std::net::Ipv4Addr>().is_err() => {
                return Err(bad(format!("the option {name} is not an IPv4 address: {value:?}")));
            }
            option::MACVLAN_MODE if link::macvlan_mode(value).is_none() => {
                return Err(bad(format!("unknown macvlan mode {value:?}: bridge, private, vepa or passthru is expected")));
            }
            option::IPVLAN_MODE if link::ipvlan_mode(value).is_none() => {
                return Err(bad(format!("unknown ipvlan mode {value:?}: l2, l3 or l3s is expected")));
            }
            option::IPVLAN_FLAG if link::ipvlan_flag(value).is_none() => {
                return Err(bad(format!("unknown ipvlan flag {value:?}: bridge, private or vepa is expected")));
            }
            option::HOST_ACCESS if truth(value).is_none() && value.parse::<std::net::Ipv4Addr>().is_err() => {
                return Err(bad(format!("the option {name} is neither true, false nor an IPv4 address: {value:?}")));
            }
            _ => (),
        }
    }
    let on_parent = matches!(new.driver, Driver::Macvlan | Driver::Ipvlan);
    let driver = new.driver.as_str();
    if on_parent && !new.options.contains_key(option::PARENT) {
        return Err(bad(format!("a network of the driver {driver} needs an interface of the host: give -o parent=NAME")));
    }
    if on_parent && (new.ipv4 && new.subnet.is_none() || new.ipv6.as_ref().is_some_and(|ipv6| ipv6.subnet.is_none())) {
        return Err(bad(format!("a network of the driver {driver} needs the subnet of its parent's wire: give --subnet")));
    }
    let reachable = new.options.get(option::HOST_ACCESS).is_some_and(|value| truth(value) != Some(false));
    if reachable && !matches!(new.options.get(option::MACVLAN_MODE).map(String::as_str), None | Some("" | "bridge")) {
        return Err(bad("host_access needs the macvlan mode bridge: in the others nobody on this host is reached".to_owned()));
    }
    Ok(())
}

/// What people write for yes and no.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
