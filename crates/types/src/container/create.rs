//! The bodies of create and update requests, and which of their fields the engine serves.

use serde_json::{Map as Object, Value};

use super::{Config, HostConfig, Mount, NetworkingConfig, RestartPolicy, Secret};
use crate::lenient;

/// The body of a create request: [`Config`] with the other two as fields of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// What runs.
    pub config: Config,
    /// How it runs on this host.
    pub host: HostConfig,
    /// Networks to join.
    pub networking: NetworkingConfig,
    /// Files that only the container sees: a field `Secrets` that Docker does not have.
    pub secrets: Vec<Secret>,
}

/// The body of an update request: the resources of [`HostConfig`] and its restart policy. What is zero or absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateRequest {
    /// Only the resources count.
    pub resources: HostConfig,
    /// The new policy, if it changes.
    pub restart_policy: Option<RestartPolicy>,
}

/// What `NetworkMode`, `IpcMode`, `PidMode`, `UTSMode` and `CgroupnsMode` have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceMode<'a> {
    /// Empty: the default.
    Default,
    /// The host's.
    Host,
    /// That of the container with this name or id.
    Container(&'a str),
    /// Another word: `private`, `none`, a network's name.
    Other(&'a str),
}

impl<'a> NamespaceMode<'a> {
    /// Reads a mode.
    pub fn parse(mode: &'a str) -> Self {
        match mode {
            "" => Self::Default,
            "host" => Self::Host,
            _ => mode.strip_prefix("container:").map_or(Self::Other(mode), Self::Container),
        }
    }
}

impl CreateRequest {
    /// Decodes a request's body, which must be an object.
    pub fn from_slice(body: &[u8]) -> Result<Self, serde_json::Error> {
        let mut object: Object<String, Value> = serde_json::from_slice(body)?;
        let host = lenient::field(&mut object, "HostConfig").unwrap_or_default();
        let networking = lenient::field(&mut object, "NetworkingConfig").unwrap_or_default();
        let secrets = lenient::field(&mut object, "Secrets").map(serde_json::from_value::<Option<_>>).transpose()?.flatten();
        Ok(Self {
            secrets: secrets.unwrap_or_default(),
            config: lenient::from_value(Value::Object(object))?,
            host: lenient::from_value(host)?,
            networking: lenient::from_value(networking)?,
        })
    }

    /// Writes the body of a request.
    pub fn to_value(&self) -> Result<Value, serde_json::Error> {
        let mut body = serde_json::to_value(&self.config)?;
        if let Value::Object(object) = &mut body {
            object.insert("HostConfig".to_owned(), serde_json::to_value(&self.host)?);
            object.insert("NetworkingConfig".to_owned(), serde_json::to_value(&self.networking)?);
        }
        Ok(body)
    }

    /// The fields that ask for something that the engine does not serve, by their names in JSON. Empty: everything asked for is served.
    pub fn not_served(&self) -> Vec<String> {
        let mut fields = self.config.not_served();
        fields.extend(self.host.not_served());
        fields
    }
}

impl UpdateRequest {
    /// Decodes a request's body.
    pub fn from_slice(body: &[u8]) -> Result<Self, serde_json::Error> {
        let mut object: Object<String, Value> = serde_json::from_slice(body)?;
        let policy = lenient::field(&mut object, "RestartPolicy").map(lenient::from_value).transpose()?;
        let resources = lenient::from_value(Value::Object(object))?;
        // Clients send an empty policy when they mean none.
        let restart_policy = policy.filter(|policy: &RestartPolicy| !policy.name.is_empty());
        Ok(Self { resources, restart_policy })
    }

    /// The fields that ask for something that the engine does not serve.
    pub fn not_served(&self) -> Vec<String> {
        self.resources.not_served()
    }
}

/// Collects the names of fields.
#[derive(Default)]
struct Refused(Vec<String>);

impl Refused {
    fn when(&mut self, asked: bool, field: &str) {
        if asked {
            self.0.push(field.to_owned());
        }
    }
}

impl Config {
    /// The fields that ask for something that the engine does not serve.
    pub fn not_served(&self) -> Vec<String> {
        let mut refused = Refused::default();
        refused.when(self.network_disabled, "NetworkDisabled");
        refused.0
    }
}

impl HostConfig {
    /// The fields that ask for something that the engine does not serve.
    pub fn not_served(&self) -> Vec<String> {
        let mut refused = Refused::default();
        self.refuse_behaviour(&mut refused);
        self.refuse_resources(&mut refused);
        for (at, mount) in self.mounts.iter().enumerate() {
            refuse_mount(&mut refused, at, mount);
        }
        refused.0
    }

    fn refuse_behaviour(&self, refused: &mut Refused) {
        refused.when(!["", "local"].contains(&self.volume_driver.as_str()), "HostConfig.VolumeDriver");
        refused.when(!self.cgroup.is_empty(), "HostConfig.Cgroup");
        refused.when(!self.storage_opt.is_empty(), "HostConfig.StorageOpt");
        refused.when(!["", "default"].contains(&self.isolation.as_str()), "HostConfig.Isolation");
    }

    fn refuse_resources(&self, refused: &mut Refused) {
        refused.when(self.cpu_count != 0, "HostConfig.CpuCount");
        refused.when(self.cpu_percent != 0, "HostConfig.CpuPercent");
        refused.when(self.io_maximum_iops != 0, "HostConfig.IOMaximumIOps");
        refused.when(self.io_maximum_bandwidth != 0, "HostConfig.IOMaximumBandwidth");
    }
}

fn refuse_mount(refused: &mut Refused, at: usize, mount: &Mount) {
    let field = |name: &str| format!("HostConfig.Mounts[{at}].{name}");
    refused.when(["image", "npipe", "cluster"].contains(&mount.kind.as_str()), &field(&format!("Type ({})", mount.kind)));
    if let Some(bind) = &mount.bind_options {
        refused.when(bind.read_only_non_recursive, &field("BindOptions.ReadOnlyNonRecursive"));
        refused.when(bind.read_only_force_recursive, &field("BindOptions.ReadOnlyForceRecursive"));
    }
    if let Some(volume) = &mount.volume_options {
        refused.when(!volume.subpath.is_empty(), &field("VolumeOptions.Subpath"));
        if let Some(driver) = &volume.driver_config {
            refused.when(!["", "local"].contains(&driver.name.as_str()), &field("VolumeOptions.DriverConfig.Name"));
            refused.when(!driver.options.is_empty(), &field("VolumeOptions.DriverConfig.Options"));
        }
    }
    if let Some(tmpfs) = &mount.tmpfs_options {
        refused.when(!tmpfs.options.is_empty(), &field("TmpfsOptions.Options"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_full_of_null_is_the_default() {
        let body = br#"{"Cmd":null,"Env":null,"Healthcheck":null,"HostConfig":{"Binds":null,"LogConfig":null,"Memory":null,"Init":null},"NetworkingConfig":null}"#;
        let request = CreateRequest::from_slice(body).expect("decodes");
        assert_eq!(request, CreateRequest::default());
        assert!(request.not_served().is_empty());
        assert!(CreateRequest::from_slice(b"[]").is_err());
        assert!(CreateRequest::from_slice(b"null").is_err());
    }

    #[test]
    fn a_command_may_be_one_text_and_names_may_have_any_case() {
        let body = br#"{"image":"busybox","cmd":"true","Entrypoint":["sh","-c"],"hostconfig":{"portbindings":{"80/tcp":[{"HostPort":"8080"}]},"Foo":1}}"#;
        let request = CreateRequest::from_slice(body).expect("decodes");
        assert_eq!(request.config.image, "busybox");
        assert_eq!(*request.config.cmd, ["true"]);
        assert_eq!(*request.config.entrypoint, ["sh", "-c"]);
        assert_eq!(request.host.port_bindings["80/tcp"][0].host_port, "8080");
    }

    #[test]
    fn what_inspect_shows_can_be_given_to_create() {
        let body = json!({
            "Image": "busybox", "Cmd": ["sh"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}, "StopTimeout": 3,
            "HostConfig": {
                "Memory": 67108864, "PidsLimit": 64, "PortBindings": {"80/tcp": [{"HostPort": ""}]}, "Binds": ["v:/data"], "Init": true,
                "Mounts": [{"Type": "tmpfs", "Target": "/tt", "TmpfsOptions": {"SizeBytes": 1024}}], "CapAdd": [],
                "Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 2000}],
            },
            "NetworkingConfig": {"EndpointsConfig": {"bridge": {"EndpointID": "e", "MacAddress": "02:42:ac:11:00:02"}}},
        });
        let mut request = CreateRequest::from_slice(body.to_string().as_bytes()).expect("decodes");
        request.host.fill_defaults(false);
        let shown = request.to_value().expect("encodes");
        let again = CreateRequest::from_slice(shown.to_string().as_bytes()).expect("decodes again");
        assert_eq!(again, request);
        assert_eq!(again.not_served(), Vec::<String>::new());
        assert_eq!(shown["HostConfig"]["MemorySwap"], 134_217_728);
        assert_eq!(shown["HostConfig"]["CapAdd"], json!([]));
        assert_eq!(shown["HostConfig"]["CapDrop"], json!(null));
        let plain: HostConfig = serde_json::from_value(shown["HostConfig"].clone()).expect("own output needs no leniency");
        assert_eq!(plain, request.host);
    }

    #[test]
    fn what_is_not_served_is_named() {
        let body = json!({
            "MacAddress": "02:42:ac:11:00:02",
            "HostConfig": {
                "CpuCount": 1,
                "Mounts": [{"Type": "bind"}, {"Type": "image"}], "IOMaximumIOps": 1,
            },
        });
        let request = CreateRequest::from_slice(body.to_string().as_bytes()).expect("decodes");
        let expected = ["HostConfig.CpuCount", "HostConfig.IOMaximumIOps", "HostConfig.Mounts[1].Type (image)"];
        assert_eq!(request.not_served(), expected);
    }

    #[test]
    fn an_update_without_a_policy_leaves_it() {
        let update = UpdateRequest::from_slice(br#"{"Memory":5,"RestartPolicy":{"Name":"","MaximumRetryCount":0}}"#).expect("decodes");
        assert_eq!((update.resources.memory, update.restart_policy), (5, None));
        let update = UpdateRequest::from_slice(br#"{"RestartPolicy":{"Name":"always"}}"#).expect("decodes");
        assert_eq!(update.restart_policy.map(|policy| policy.name).as_deref(), Some("always"));
    }

    #[test]
    fn modes_are_told_apart() {
        assert_eq!(NamespaceMode::parse(""), NamespaceMode::Default);
        assert_eq!(NamespaceMode::parse("host"), NamespaceMode::Host);
        assert_eq!(NamespaceMode::parse("container:web"), NamespaceMode::Container("web"));
        assert_eq!(NamespaceMode::parse("private"), NamespaceMode::Other("private"));
    }
}
