//! What every command has at hand: the engine, the terminal, the name under which the program was called.

use std::cell::OnceCell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use client::{ApiVersion, Client, Endpoint};
use types::Classify;

/// Where an engine listens unless told otherwise.
pub const DEFAULT_ENDPOINT: &str = "unix:///run/cais/cais.sock";
/// How long a freshly started engine may take until it answers.
const ENGINE_START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an engine that another client is starting may take.
const ENGINE_OF_ANOTHER_TIMEOUT: Duration = Duration::from_secs(1);
const ENGINE_START_POLL: Duration = Duration::from_millis(20);

/// What the program around the client provides.
pub struct Hooks {
    /// Starts an engine on the default socket in the background and returns when it listens, or shortly before.
    pub start_engine: fn() -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    /// Commands that the program handles itself, with one line about each, for the list in the help.
    pub commands: &'static [(&'static str, &'static str)],
}

/// The surroundings of one command.
pub struct Context {
    /// The name under which the program was called.
    pub program: String,
    /// `-H`, if given.
    pub host: Option<String>,
    /// The folder of `--config`, if given.
    pub config: Option<String>,
    /// `-D`.
    pub debug: bool,
    /// See [`Hooks`].
    pub hooks: &'static Hooks,
    client: OnceCell<Client>,
}

/// Ends the program with this code, after the message if there is one.
#[derive(Debug)]
pub struct Exit {
    /// Exit code.
    pub code: i32,
    /// What to say; empty when all is said.
    pub message: String,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

impl Exit {
    /// An exit code with a message.
    pub fn with(code: i32, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { code, message: message.into() })
    }
}

impl Context {
    /// Nothing is opened yet.
    pub fn new(program: String, hooks: &'static Hooks) -> Self {
        Self { program, host: None, config: None, debug: false, hooks, client: OnceCell::new() }
    }

    /// The engine's client, connected. Where nothing listens on the default socket an engine is started, once.
    pub fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let (text, chosen) = self.endpoint_text();
        let endpoint: Endpoint = text.parse()?;
        let client = Client::new(endpoint, pinned_version()?);
        match client.connect() {
            Err(client::Error::NoEngine { .. }) if !chosen => self.start_engine(&client)?,
            other => other?,
        }
        Ok(self.client.get_or_init(|| client))
    }

    /// Name of the endpoint, and whether somebody chose it.
    pub fn endpoint_text(&self) -> (String, bool) {
        let from_environment = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        match self.host.clone().or_else(|| from_environment("CAIS_HOST")).or_else(|| from_environment("DOCKER_HOST")) {
            Some(text) => (text, true),
            None => (DEFAULT_ENDPOINT.to_owned(), false),
        }
    }

    fn start_engine(&self, client: &Client) -> Result<()> {
        self.warn(&format!("no engine at {}: starting one in the background", client.endpoint()));
        let failure = (self.hooks.start_engine)().err();
        // When a start fails, another client may have started an engine at the same moment.
        let end = Instant::now() + if failure.is_none() { ENGINE_START_TIMEOUT } else { ENGINE_OF_ANOTHER_TIMEOUT };
        loop {
            match client.connect() {
                Err(client::Error::NoEngine { .. }) if Instant::now() < end => std::thread::sleep(ENGINE_START_POLL),
                Err(error) => {
                    return Err(failure.map_or_else(|| error.into(), |cause| anyhow::anyhow!("{cause}").context("start an engine")));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Says something on stderr under the program's name.
    pub fn warn(&self, text: &str) {
        // Nobody can be told when stderr is closed.
        let _ = writeln!(io::stderr(), "{}: {text}", self.program);
    }

    /// Reports an error once, with its causes and its way out.
    pub fn report(&self, error: &anyhow::Error) {
        self.warn(&describe(error));
        if self.debug {
            let status = error.chain().find_map(|level| level.downcast_ref::<client::Error>()?.status());
            let version = self.client.get().map_or_else(|| "none yet".to_owned(), |client| client.version().to_string());
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            self.warn(&format!("debug: engine {}, API version {version}, status {status}", self.endpoint_text().0));
        }
    }

    /// Does something to each name; reports each failure and goes on. The exit code is 1 if anything failed.
    pub fn each<'a>(&self, names: impl IntoIterator<Item = &'a String>, mut act: impl FnMut(&str) -> Result<()>) -> Result<i32> {
        let mut code = 0;
        for name in names {
            if let Err(error) = act(name) {
                if is_broken_pipe(&error) {
                    return Err(error);
                }
                self.report(&error);
                code = 1;
            }
        }
        Ok(code)
    }

    /// Asks for a yes on the terminal; without a terminal nobody can say it.
    pub fn confirm(&self, warning: &str) -> Result<bool> {
        if !io::stdin().is_terminal() {
            bail!("{warning} Give --force to go on without a terminal");
        }
        eprint!("{warning}\nAre you sure you want to continue? [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).context("read the answer")?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// Writes a text to stdout at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The error with its causes, each level once, and the hint.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for level in error.chain() {
        let level = plain_cause(&level.to_string());
        if text.ends_with(&level) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&level);
    }
    let hint = error.chain().find_map(|level| level.downcast_ref::<client::Error>().and_then(Classify::hint));
    if let Some(hint) = hint {
        text.push_str("; ");
        text.push_str(&hint);
    }
    text
}

/// Whether the reader of our output went away, which is no failure to be reported.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|level| level.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe))
        && !error.chain().any(|level| level.is::<client::Error>())
}

/// "No such file or directory (os error 2)" reads better in the middle of a sentence as "no such file or directory".
fn plain_cause(text: &str) -> String {
    let Some((plain, _)) = text.split_once(" (os error ") else { return text.to_owned() };
    let mut letters = plain.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

fn pinned_version() -> Result<Option<ApiVersion>> {
    for name in ["CAIS_API_VERSION", "DOCKER_API_VERSION"] {
        if let Ok(text) = std::env::var(name)
            && !text.is_empty()
        {
            return Ok(Some(text.parse().with_context(|| format!("read {name}"))?));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_engine_is_told_with_the_way_out() {
        let cause = io::Error::from_raw_os_error(2);
        let endpoint = "unix:///no/such.sock".parse().expect("an endpoint");
        let text = describe(&client::Error::NoEngine { endpoint, source: cause }.into());
        assert_eq!(
            text,
            "cannot connect to the engine at unix:///no/such.sock: no such file or directory; is it running? start one with `cais engine`"
        );
    }
}
