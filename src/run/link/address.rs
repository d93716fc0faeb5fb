//! Where a run on another machine lies: `ssh://[user@]host[:port]/path/to/run`.

use std::ffi::OsString;
use std::fmt;
use std::process::Command;

use anyhow::Result;

use crate::error::input_error;

/// How an address begins.
pub const SCHEME: &str = "ssh://";

/// Runs instead of `ssh`, with the same arguments, where this variable names it.
const SSH_VARIABLE: &str = "LORADECK_SSH";

/// A run on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAddress {
    /// `[user@]host`, as `ssh` takes it.
    destination: String,
    port: Option<u16>,
    /// The run's folder there; one that is relative begins at the home folder.
    path: String,
}

impl SshAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// It is none. A host or user that `ssh` (or a shell behind it) could take for something else
    /// than a name is refused.
    pub fn parse(text: &str) -> Result<SshAddress> {
        let wrong = |why: &str| {
            input_error(format!(
                "{text:?} {why}; an address is ssh://[user@]host[:port]/path/to/run"
            ))
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong("does not begin with ssh://"))?;
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        let (host, port) = host_and_port(place).ok_or_else(|| wrong("has no valid port"))?;
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        for (what, name) in [("host", Some(host)), ("user", user)] {
            let Some(name) = name else { continue };
            if name.starts_with('-') {
                return Err(wrong(&format!("has a {what} that begins with `-`")));
            }
            let plain = |c: char| c.is_alphanumeric() || "._-+:%@".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                return Err(wrong(&format!("has a {what} that is no name")));
            }
        }
        let path = decoded(path).ok_or_else(|| wrong("has a path that is not UTF-8"))?;
        let path = match path.strip_prefix("~/") {
            Some(below_home) => below_home.to_owned(),
            None => format!("/{path}"),
        };
        if path.trim_matches('/').is_empty() {
            return Err(wrong("names no run's folder"));
        }
        if path.chars().any(char::is_control) {
            return Err(wrong("has control characters in its path"));
        }
        Ok(SshAddress {
            destination: match user {
                Some(user) => format!("{user}@{host}"),
                None => host.to_owned(),
            },
            port,
            path,
        })
    }

    /// Last part of the run folder's path.
    pub fn run_name(&self) -> &str {
        let path = self.path.trim_end_matches('/');
        path.rsplit('/').next().unwrap_or(path)
    }

    /// The command that starts a bridge there. `since` is the last event that is known here:
    /// `SEQ@FIRST_STARTED`. When nobody `attends`, `ssh` asks no question and fails instead.
    pub fn bridge(&self, program: &str, since: Option<&str>, attends: bool) -> Command {
        let ssh = std::env::var_os(SSH_VARIABLE).filter(|v| !v.is_empty());
        let mut command = Command::new(ssh.unwrap_or_else(|| OsString::from("ssh")));
        // No terminal there; compression, as events are text; a dead line is noticed in 15 s.
        command.args(["-T", "-C"]);
        for option in [
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "ConnectTimeout=15",
            "EscapeChar=none",
        ] {
            command.args(["-o", option]);
        }
        if !attends {
            command.args(["-o", "BatchMode=yes"]);
        }
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        let mut bridge = format!("exec {} bridge", quoted(program));
        if let Some(since) = since {
            bridge += &format!(" --since {}", quoted(since));
        }
        bridge += &format!(" -- {}", quoted(&self.path));
        // Shells that are not a login's often lack the folders that programs are installed into.
        let script =
            format!("PATH=\"$PATH:$HOME/.local/bin:$HOME/.cargo/bin:/usr/local/bin\"; {bridge}");
        command
            .arg("--")
            .arg(&self.destination)
            .arg(format!("exec sh -c {}", quoted(&script)));
        command
    }
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, path) = (&self.destination, &self.path);
        let root = if path.starts_with('/') { "" } else { "/~/" };
        match self.port {
            Some(port) if host.contains(':') => write!(f, "{SCHEME}[{host}]:{port}{root}{path}"),
            Some(port) => write!(f, "{SCHEME}{host}:{port}{root}{path}"),
            None => write!(f, "{SCHEME}{host}{root}{path}"),
        }
    }
}

/// `host`, `host:22`, `[::1]`, `[::1]:22`.
fn host_and_port(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match place.strip_prefix('[').and_then(|p| p.split_once(']')) {
        Some((host, rest)) => (host, rest),
        None => match place.find(':') {
            Some(at) => place.split_at(at),
            None => (place, ""),
        },
    };
    match rest.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .filter(|&p| p > 0)
            .map(|p| (host, Some(p))),
        None => rest.is_empty().then_some((host, None)),
    }
}

/// `%20` and its like as the bytes they stand for.
fn decoded(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| path.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// One word for every shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str, since: Option<&str>, attends: bool) -> Vec<String> {
        SshAddress::parse(text)
            .unwrap()
            .bridge("loradeck", since, attends)
            .get_args()
            .map(|a| a.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn an_address_is_user_host_port_and_a_folder() {
        let full = SshAddress::parse("ssh://ada@gpu-box.lan:2222/data/my%20run/").unwrap();
        assert_eq!(full.destination, "ada@gpu-box.lan");
        assert_eq!(full.port, Some(2222));
        assert_eq!(full.path, "/data/my run/");
        assert_eq!(full.run_name(), "my run");
        let home = SshAddress::parse("ssh://box/~/output/demo").unwrap();
        assert_eq!((home.path.as_str(), home.port), ("output/demo", None));
        let six = SshAddress::parse("ssh://[::1]:22/run").unwrap();
        assert_eq!((six.destination.as_str(), six.port), ("::1", Some(22)));
        for text in [
            "ssh://ada@box:22/r/run",
            "ssh://box/~/output/demo",
            "ssh://[::1]:22/run",
        ] {
            let address = SshAddress::parse(text).unwrap();
            let again = SshAddress::parse(&address.to_string()).unwrap();
            assert_eq!(address, again, "{text}");
        }
    }

    #[test]
    fn what_ssh_or_a_shell_could_take_for_an_option_or_a_command_is_refused() {
        for text in [
            "ssh://-oProxyCommand=touch%20x/run",
            "ssh://-v/run",
            "ssh://-l@box/run",
            "ssh://a b/run",
            "ssh://box;id/run",
            "ssh://$(id)/run",
            "ssh://us`er@box/run",
            "ssh:///run",
            "ssh://@box/run",
            "ssh://box:0/run",
            "ssh://box:99999/run",
            "ssh://box:/run",
            "ssh://box",
            "ssh://box/",
            "ssh://box/a%0Ab",
            "http://box/run",
        ] {
            let error = SshAddress::parse(text).unwrap_err().to_string();
            assert!(error.contains("an address is ssh://"), "{text}: {error}");
        }
    }

    #[test]
    fn the_far_shell_gets_one_quoted_command_after_the_end_of_options() {
        let found = arguments("ssh://ada@box:7/data/it's a run", Some("12@3.5"), false);
        let host = found.iter().position(|a| a == "ada@box").unwrap();
        assert_eq!(found[host - 1], "--");
        assert!(found.windows(2).any(|w| w == ["-p", "7"]));
        assert!(found.contains(&"BatchMode=yes".to_owned()));
        assert!(!arguments("ssh://box/run", None, true).contains(&"BatchMode=yes".to_owned()));
        // As the far side's shell would: twice through `sh`.
        let stand_in = tempfile::tempdir().unwrap();
        let program = stand_in.path().join("lora deck");
        std::fs::write(&program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let address = SshAddress::parse("ssh://box/data/it's a $HOME run").unwrap();
        let command = address.bridge(program.to_str().unwrap(), Some("12@3.5"), true);
        let script = command.get_args().last().unwrap();
        let out = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            "bridge\n--since\n12@3.5\n--\n/data/it's a $HOME run\n"
        );
    }
}
