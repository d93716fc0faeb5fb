//! Where the control socket lies, and binding it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

/// Longest path a socket's address holds (`sun_path`, less its end).
const PATH_BYTES: usize = 107;

/// A bound socket; its file is removed when it is dropped.
pub struct Socket {
    pub listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds the socket of a run: its name is a hash of the run folder, as a socket's path must be
    /// short and run folders may lie on network volumes. One left behind by a runner that is gone
    /// is replaced, so the caller must hold the folder's lock.
    ///
    /// # Errors
    /// No private folder for it can be made.
    pub fn bind(run_dir: &Path) -> Result<Socket> {
        let name = format!(
            "{}.sock",
            &blake3::hash(run_dir.as_os_str().as_encoded_bytes()).to_hex()[..16]
        );
        let mut why = Vec::new();
        for folder in places() {
            match bind_in(&folder, &name) {
                Ok(socket) => return Ok(socket),
                Err(e) => why.push(format!("{e:#}")),
            }
        }
        Err(anyhow!(
            "no place for the control socket: {}",
            why.join("; ")
        ))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still this socket: `$XDG_RUNTIME_DIR` goes away when its user's last
    /// session ends, and the run goes on.
    pub fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Folders to try, best first.
fn places() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let mut places = Vec::new();
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
        && runtime.is_absolute()
        && runtime.is_dir()
    {
        places.push(runtime.join("loradeck"));
    }
    let own = format!("loradeck-{uid}");
    places.push(std::env::temp_dir().join(&own));
    places.push(Path::new("/tmp").join(own));
    places.dedup();
    places
}

/// The folder in which a socket can be made now, for `doctor`.
///
/// # Errors
/// Why there is none.
pub fn place() -> Result<PathBuf> {
    let mut why = Vec::new();
    for folder in places() {
        match private_folder(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) => why.push(format!("{e:#}")),
        }
    }
    Err(anyhow!("no place for control sockets: {}", why.join("; ")))
}

fn bind_in(folder: &Path, name: &str) -> Result<Socket> {
    let path = folder.join(name);
    if path.as_os_str().len() > PATH_BYTES {
        bail!("the path {} is too long for a socket", path.display());
    }
    private_folder(folder)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    let binding = || format!("cannot bind {}", path.display());
    let listener = UnixListener::bind(&path).with_context(binding)?;
    // Nobody else can enter the folder meanwhile.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(binding)?;
    let inode = fs::symlink_metadata(&path).with_context(binding)?.ino();
    Ok(Socket {
        listener,
        path,
        inode,
    })
}

/// Makes sure that the folder is this user's and nobody else can enter it.
fn private_folder(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("cannot create {}", folder.display()));
        }
        _ => {}
    }
    let is = fs::symlink_metadata(folder)
        .with_context(|| format!("cannot look at {}", folder.display()))?;
    let uid = rustix::process::geteuid().as_raw();
    if !is.is_dir() || is.uid() != uid || is.mode() & 0o077 != 0 {
        bail!(
            "{} is not a private folder of this user (it must be theirs, with mode 700)",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_lies_in_a_private_folder_replaces_a_stale_one_and_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("loradeck");
        let stale = bind_in(&folder, "a.sock").unwrap();
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let socket = bind_in(&folder, "a.sock").unwrap();
        assert!(socket.is_there() && !stale.is_there());
        drop(stale);
        assert!(UnixStream::connect(socket.path()).is_ok());
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn folders_of_others_and_long_paths_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let open = place.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(bind_in(&open, "a.sock").is_err());
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(bind_in(&link, "a.sock").is_err());
        let long = place.path().join("x".repeat(120));
        assert!(bind_in(&long, "a.sock").is_err());
    }
}
