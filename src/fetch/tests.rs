//! Fetching from a hub on this machine that behaves badly.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::Digest;

use super::*;

/// What goes wrong with one request for a file.
#[derive(Clone, Debug)]
enum Fault {
    /// The connection is cut after so many bytes of the body.
    Cut(usize),
    Status(u16),
    /// 429 with `Retry-After: 0`.
    Busy,
    /// A byte is another one.
    Wrong,
    /// More bytes than the hub lists, and the header says so.
    TooMany,
    /// Fewer bytes than the hub lists, and the header says so.
    TooFew,
    /// The whole file, whatever range was asked for.
    IgnoresRanges,
    /// A range that begins elsewhere.
    OtherRange,
    /// The file lies at this address.
    Redirect(String),
}

#[derive(Clone, Debug)]
struct Asked {
    path: String,
    range: Option<u64>,
    token: Option<String>,
}

struct Shared {
    files: Vec<(String, Vec<u8>, bool)>,
    faults: Mutex<VecDeque<Fault>>,
    /// What every request for a file meets once the faults are used up.
    always: Option<Fault>,
    asked: Mutex<Vec<Asked>>,
    /// Status and code of every answer about the repository.
    refusal: Option<(u16, &'static str)>,
    /// Bytes that the listing adds to each size.
    lie: u64,
}

struct FakeHub {
    shared: Arc<Shared>,
    address: String,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn git(bytes: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn weights() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn files() -> Vec<(String, Vec<u8>, bool)> {
    vec![
        ("config.json".into(), b"{}".to_vec(), false),
        ("tokenizer.json".into(), b"{\"a\": 1}".to_vec(), false),
        ("model.safetensors".into(), weights(), true),
        ("pytorch_model.bin".into(), vec![1; 1000], true),
    ]
}

impl FakeHub {
    fn with(faults: Vec<Fault>, change: impl FnOnce(&mut Shared)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut shared = Shared {
            files: files(),
            faults: Mutex::new(faults.into()),
            always: None,
            asked: Mutex::new(Vec::new()),
            refusal: None,
            lie: 0,
        };
        change(&mut shared);
        let shared = Arc::new(shared);
        let served = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.answer(stream));
            }
        });
        FakeHub { shared, address }
    }

    fn new(faults: Vec<Fault>) -> Self {
        Self::with(faults, |_| {})
    }

    fn asked_for(&self, part: &str) -> Vec<Asked> {
        let asked = self.shared.asked.lock().unwrap();
        asked
            .iter()
            .filter(|a| a.path.contains(part))
            .cloned()
            .collect()
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub {
            endpoint: self.address.clone(),
            token: Some("hf_secret".into()),
            cache: cache.to_owned(),
            offline: false,
            patience: Duration::from_millis(1),
        }
    }

    fn fetch(&self, cache: &Path) -> Result<PathBuf> {
        self.hub(cache).fetch(&repo(), Wanted::Base, false, &|_| {})
    }
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let (mut range, mut token) = (None, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim();
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':')?;
            match name.to_lowercase().as_str() {
                "range" => {
                    range = value
                        .trim()
                        .strip_prefix("bytes=")?
                        .split('-')
                        .next()?
                        .parse()
                        .ok()
                }
                "authorization" => token = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        self.asked.lock().unwrap().push(Asked {
            path: path.clone(),
            range,
            token,
        });
        let mut out = stream;
        if path.starts_with("/api/") {
            return self.about(&path, &mut out);
        }
        let fault = self.faults.lock().unwrap().pop_front();
        self.file(
            &path,
            range,
            fault.or_else(|| self.always.clone()),
            &mut out,
        )
    }

    fn about(&self, path: &str, out: &mut TcpStream) -> Option<()> {
        if let Some((status, code)) = self.refusal {
            return send(out, status, &[("X-Error-Code", code)], b"{}", None);
        }
        let body = if path.contains("/revision/") {
            format!("{{\"sha\": \"{COMMIT}\"}}")
        } else {
            let entries: Vec<String> = self
                .files
                .iter()
                .map(|(name, bytes, large)| {
                    let size = bytes.len() as u64 + self.lie;
                    let lfs = match large {
                        true => format!(", \"lfs\": {{\"oid\": \"{}\", \"size\": {size}}}", sha256(bytes)),
                        false => String::new(),
                    };
                    format!(
                        "{{\"type\": \"file\", \"path\": \"{name}\", \"size\": {size}, \"oid\": \"{}\"{lfs}}}",
                        git(bytes)
                    )
                })
                .collect();
            format!("[{}]", entries.join(","))
        };
        send(out, 200, &[], body.as_bytes(), None)
    }

    fn file(
        &self,
        path: &str,
        range: Option<u64>,
        fault: Option<Fault>,
        out: &mut TcpStream,
    ) -> Option<()> {
        let (_, whole, _) = self
            .files
            .iter()
            .find(|(name, ..)| path.ends_with(name.as_str()))?;
        let from = range.unwrap_or(0) as usize;
        let mut body = whole.get(from..)?.to_vec();
        let at = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
        let mut headers = vec![("Content-Range", at.as_str())];
        let mut status = if range.is_some() { 206 } else { 200 };
        let mut cut = None;
        match &fault {
            None => {}
            Some(Fault::Cut(bytes)) => cut = Some((*bytes).min(body.len() - 1)),
            Some(Fault::Status(code)) => status = *code,
            Some(Fault::Busy) => {
                status = 429;
                headers.push(("Retry-After", "0"));
            }
            Some(Fault::Wrong) => body[0] ^= 1,
            Some(Fault::TooMany) => body.extend([0; 50]),
            Some(Fault::TooFew) => body.truncate(body.len() / 2),
            Some(Fault::IgnoresRanges) => {
                status = 200;
                body = whole.clone();
            }
            Some(Fault::OtherRange) => headers[0].1 = "bytes 1-9/10",
            Some(Fault::Redirect(to)) => {
                let location = format!("{to}{path}");
                return send(out, 302, &[("Location", &location)], b"", None);
            }
        }
        send(out, status, &headers, &body, cut)
    }
}

fn send(
    out: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    cut: Option<usize>,
) -> Option<()> {
    let mut head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    out.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    out.write_all(&body[..cut.unwrap_or(body.len())]).ok()?;
    out.flush().ok()
}

fn repo() -> Repo {
    Repo::parse("some-owner/some-name", RepoKind::Model).unwrap()
}

fn said(result: Result<PathBuf>) -> String {
    let error = result.unwrap_err();
    assert_eq!(crate::error::exit_code(&error), 2, "{error:#}");
    let text = format!("{error:#}");
    assert!(!text.contains("hf_secret"), "{text}");
    text
}

fn assert_whole(snapshot: &Path) {
    assert_eq!(
        std::fs::read(snapshot.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(std::fs::read(snapshot.join("config.json")).unwrap(), b"{}");
}

#[test]
fn a_repository_lies_in_the_cache_as_huggingface_hub_lays_it_out() {
    let cache = tempfile::tempdir().unwrap();
    let fake = FakeHub::new(Vec::new());
    let snapshot = fake.fetch(cache.path()).unwrap();
    let folder = cache.path().join("models--some-owner--some-name");
    assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
    assert_whole(&snapshot);
    assert_eq!(
        std::fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    // Large files by their SHA-256, others by git's name; links are relative.
    let target = |name: &str| std::fs::read_link(snapshot.join(name)).unwrap();
    let blob = |sum: String| PathBuf::from(format!("../../blobs/{sum}"));
    assert_eq!(target("model.safetensors"), blob(sha256(&weights())));
    assert_eq!(target("config.json"), blob(git(b"{}")));
    // Weights come once, and as safetensors.
    assert!(!snapshot.join("pytorch_model.bin").exists());
    assert!(fake.asked_for("pytorch_model").is_empty());
    // What is there is used without a question.
    let before = fake.asked_for("").len();
    assert_eq!(fake.fetch(cache.path()).unwrap(), snapshot);
    assert_eq!(fake.asked_for("").len(), before);
    // An update asks what the revision is, and fetches nothing that is there.
    let updated = fake
        .hub(cache.path())
        .fetch(&repo(), Wanted::Base, true, &|_| {});
    assert_eq!(updated.unwrap(), snapshot);
    assert_eq!(fake.asked_for("/resolve/").len(), 3);
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut_in_this_process_and_the_next() {
    let cache = tempfile::tempdir().unwrap();
    // The two small files come first.
    let fine = || vec![Fault::IgnoresRanges; 2];
    let fake = FakeHub::new([fine(), vec![Fault::Cut(30_000), Fault::Cut(20_000)]].concat());
    assert_whole(&fake.fetch(cache.path()).unwrap());
    let ranges: Vec<Option<u64>> = fake
        .asked_for("model.safetensors")
        .iter()
        .map(|asked| asked.range)
        .collect();
    assert_eq!(ranges.len(), 3);
    assert!(
        ranges[0].is_none() && ranges[1] > Some(0) && ranges[2] > ranges[1],
        "{ranges:?}"
    );

    let cache = tempfile::tempdir().unwrap();
    let broken = FakeHub::with([fine(), vec![Fault::Cut(30_000)]].concat(), |shared| {
        shared.always = Some(Fault::Status(503));
    });
    let text = said(broken.fetch(cache.path()));
    assert!(
        text.contains("503") && text.contains("goes on from there"),
        "{text}"
    );
    let whole = FakeHub::new(Vec::new());
    assert_whole(&whole.fetch(cache.path()).unwrap());
    let asked = whole.asked_for("model.safetensors");
    assert!(asked.len() == 1 && asked[0].range > Some(0), "{asked:?}");
}

#[test]
fn servers_that_lie_about_sizes_and_ranges_are_seen_through() {
    for faults in [
        vec![Fault::TooMany],
        vec![Fault::TooFew],
        vec![Fault::Cut(500), Fault::IgnoresRanges],
        vec![Fault::Cut(500), Fault::OtherRange],
    ] {
        let cache = tempfile::tempdir().unwrap();
        let all = [vec![Fault::IgnoresRanges; 2], faults.clone()].concat();
        let snapshot = FakeHub::new(all).fetch(cache.path());
        assert_whole(&snapshot.unwrap_or_else(|e| panic!("{faults:?}: {e:#}")));
    }
    for (always, reason) in [
        (Fault::TooMany, "sends more"),
        (Fault::TooFew, "sends less"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let fake = FakeHub::with(Vec::new(), |shared| shared.always = Some(always));
        let text = said(fake.fetch(cache.path()));
        assert!(text.contains(reason), "{text}");
        assert_nothing_named(cache.path());
    }
}

fn assert_nothing_named(cache: &Path) {
    let blobs = cache.join("models--some-owner--some-name/blobs");
    let names = std::fs::read_dir(blobs)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let named: Vec<_> = names
        .filter(|name| !name.to_string_lossy().ends_with(".incomplete"))
        .collect();
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn wrong_bytes_never_get_a_name() {
    let cache = tempfile::tempdir().unwrap();
    let fake = FakeHub::new(vec![Fault::Wrong]);
    assert_whole(&fake.fetch(cache.path()).unwrap());
    let cache = tempfile::tempdir().unwrap();
    let fake = FakeHub::with(Vec::new(), |shared| shared.always = Some(Fault::Wrong));
    let text = said(fake.fetch(cache.path()));
    assert!(
        text.contains("config.json") && text.contains("checksum"),
        "{text}"
    );
    assert_nothing_named(cache.path());
    // A part that an older download left, of other content.
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--some-owner--some-name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&weights())));
    std::fs::write(part, [9; 5000]).unwrap();
    assert_whole(&FakeHub::new(Vec::new()).fetch(cache.path()).unwrap());
}

#[test]
fn a_busy_server_is_asked_again() {
    let cache = tempfile::tempdir().unwrap();
    let faults = vec![
        Fault::Busy,
        Fault::Status(500),
        Fault::Status(503),
        Fault::Busy,
    ];
    assert_whole(&FakeHub::new(faults).fetch(cache.path()).unwrap());
    let nobody = Hub {
        endpoint: "http://127.0.0.1:1".into(),
        ..FakeHub::new(Vec::new()).hub(cache.path())
    };
    let other = Repo::parse("some-owner/other", RepoKind::Model).unwrap();
    let text = said(nobody.fetch(&other, Wanted::Base, false, &|_| {}));
    assert!(text.contains("cannot be reached"), "{text}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let cache = tempfile::tempdir().unwrap();
    let storage = FakeHub::new(Vec::new());
    let fake = FakeHub::with(Vec::new(), |shared| {
        shared.always = Some(Fault::Redirect(storage.address.clone()));
    });
    assert_whole(&fake.fetch(cache.path()).unwrap());
    let token = Some("Bearer hf_secret".to_owned());
    assert!(fake.asked_for("").iter().all(|asked| asked.token == token));
    let stored = storage.asked_for("");
    assert_eq!(stored.len(), 3);
    assert!(
        stored.iter().all(|asked| asked.token.is_none()),
        "{stored:?}"
    );
}

#[test]
fn every_refusal_is_a_sentence_that_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    for (status, code, token, expected) in [
        (401, "GatedRepo", false, "accept its conditions"),
        (403, "GatedRepo", true, "accept its conditions"),
        (401, "RepoNotFound", false, "neither a file or folder here"),
        (404, "RepoNotFound", true, "neither a file or folder here"),
        (401, "", true, "does not accept the token"),
        (404, "RevisionNotFound", true, "has no revision main"),
        (403, "", true, "may not read"),
    ] {
        let fake = FakeHub::with(Vec::new(), |shared| shared.refusal = Some((status, code)));
        let mut hub = fake.hub(cache.path());
        hub.token = hub.token.filter(|_| token);
        let text = said(hub.fetch(&repo(), Wanted::Base, false, &|_| {}));
        assert!(text.contains(expected), "{status} {code}: {text}");
    }
}

#[test]
fn offline_means_the_cache_and_nothing_else() {
    let cache = tempfile::tempdir().unwrap();
    let fake = FakeHub::new(Vec::new());
    let hub = Hub {
        offline: true,
        ..fake.hub(cache.path())
    };
    let text = said(hub.fetch(&repo(), Wanted::Base, false, &|_| {}));
    assert!(text.contains("HF_HUB_OFFLINE"), "{text}");
    let snapshot = fake.fetch(cache.path()).unwrap();
    let asked = fake.asked_for("").len();
    assert_eq!(
        hub.fetch(&repo(), Wanted::Base, true, &|_| {}).unwrap(),
        snapshot
    );
    assert_eq!(fake.asked_for("").len(), asked);
}

#[test]
fn too_little_room_is_told_before_anything_is_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let fake = FakeHub::with(Vec::new(), |shared| shared.lie = 1 << 50);
    let text = said(fake.fetch(cache.path()));
    assert!(text.contains("MiB are free"), "{text}");
    assert!(fake.asked_for("/resolve/").is_empty());
}

#[test]
fn progress_counts_all_files_together() {
    let cache = tempfile::tempdir().unwrap();
    let last = Mutex::new(None);
    let keep = |progress: &Progress| *last.lock().unwrap() = Some(progress.clone());
    let fake = FakeHub::new(Vec::new());
    fake.hub(cache.path())
        .fetch(&repo(), Wanted::Base, false, &keep)
        .unwrap();
    let last = last.lock().unwrap().clone().unwrap();
    assert_eq!(last.done, last.total);
    assert_eq!(last.total, 100_000 + 2 + 8);
}
