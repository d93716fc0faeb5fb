//! Whether systemd's logind ends a user's processes when they log out.

use std::fs;
use std::path::{Path, PathBuf};

/// A warning where a detached run would not outlive its user's last session.
pub fn kills_user_processes() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/systemd/logind.conf")];
    if let Ok(entries) = fs::read_dir("/etc/systemd/logind.conf.d") {
        let mut dropped: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        dropped.sort();
        files.extend(dropped);
    }
    let texts = files.iter().filter_map(|f| fs::read_to_string(f).ok());
    let user = std::env::var("USER").ok()?;
    let lingers = Path::new("/var/lib/systemd/linger").join(&user).exists();
    let in_logind_session = std::env::var_os("XDG_SESSION_ID").is_some();
    (in_logind_session && !lingers && says_kill(texts)).then(|| {
        format!(
            "this system ends a user's processes at logout (KillUserProcesses=yes); \
             `loginctl enable-linger {user}` lets the run go on"
        )
    })
}

/// The last setting wins, as in logind; the default is no.
fn says_kill(texts: impl Iterator<Item = String>) -> bool {
    let mut kill = false;
    for text in texts {
        for line in text.lines() {
            if let Some(value) = line.trim().strip_prefix("KillUserProcesses=") {
                kill = matches!(
                    value.trim().to_ascii_lowercase().as_str(),
                    "yes" | "true" | "on" | "1"
                );
            }
        }
    }
    kill
}

#[cfg(test)]
mod tests {
    use super::says_kill;

    #[test]
    fn the_last_uncommented_setting_of_logind_counts() {
        let kill = |texts: &[&str]| says_kill(texts.iter().map(|&t| t.to_owned()));
        assert!(!kill(&["[Login]\n#KillUserProcesses=yes\n"]));
        assert!(kill(&["[Login]\nKillUserProcesses=yes\n"]));
        assert!(!kill(&[
            "KillUserProcesses=yes\n",
            "KillUserProcesses=no\n"
        ]));
    }
}
