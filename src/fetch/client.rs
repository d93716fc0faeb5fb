//! HTTP as the hub needs it: retries, redirects, the token for one host only.

use std::time::Duration;

use anyhow::Result;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::Hub;
use crate::error::input_error;

/// Tries of a request that fails in a way that may pass.
pub(super) const TRIES: u32 = 6;

/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const REDIRECTS: usize = 8;

pub(super) struct Client<'a> {
    hub: &'a Hub,
    agent: Agent,
}

/// What came of one try.
pub(super) enum Answer {
    /// 2xx.
    Good(Response<Body>),
    /// Another status that will not change by itself.
    Refused(u16, HeaderMap),
}

/// Why a try may be worth repeating, and how long to wait if the server says so.
pub(super) struct Trouble {
    pub reason: String,
    pub wait: Option<Duration>,
}

impl<'a> Client<'a> {
    pub fn new(hub: &'a Hub) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A line that is silent this long is taken for dead; the download goes on where it was.
            .timeout_per_read(Some(Duration::from_secs(30)))
            .user_agent(concat!("loradeck/", env!("CARGO_PKG_VERSION")))
            // Compressed bodies would have other lengths than the files.
            .accept_encoding("identity")
            .build();
        Client {
            hub,
            agent: config.new_agent(),
        }
    }

    /// One GET, over redirects. `from`: the first byte that is asked for.
    pub fn get(&self, url: &str, from: u64) -> Result<Answer, Trouble> {
        let trouble = |reason: String| Trouble { reason, wait: None };
        let mut at: Uri = url
            .parse()
            .map_err(|_| trouble(format!("{url} is no address")))?;
        let own: Uri = self.hub.endpoint.parse().unwrap_or_default();
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(at.clone());
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = &self.hub.token
                && same_host(&at, &own)
            {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let host = at.host().unwrap_or("the server").to_owned();
            let response = request.call().map_err(|e| trouble(told(&host, &e)))?;
            let status = response.status().as_u16();
            match status {
                301 | 302 | 303 | 307 | 308 => {
                    let location = response.headers().get("location");
                    let location = location.and_then(|l| l.to_str().ok()).unwrap_or("");
                    let next = joined(&at, location)
                        .ok_or_else(|| trouble(format!("{host} redirects to no address")))?;
                    if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                        return Err(trouble(format!(
                            "{host} redirects to an unencrypted address"
                        )));
                    }
                    at = next;
                }
                200..=299 => return Ok(Answer::Good(response)),
                408 | 429 | 500..=599 => {
                    let after = response.headers().get("retry-after");
                    let seconds = after.and_then(|s| s.to_str().ok()?.trim().parse().ok());
                    return Err(Trouble {
                        reason: format!("{host} answers with status {status}"),
                        wait: seconds.map(|s| Duration::from_secs(s).min(LONGEST_WAIT)),
                    });
                }
                _ => return Ok(Answer::Refused(status, response.headers().clone())),
            }
        }
        Err(trouble(format!("{url} redirects without end")))
    }

    /// A GET that is repeated while there is trouble.
    pub fn get_patiently(&self, url: &str) -> Result<Answer> {
        let mut tries = 0;
        loop {
            match self.get(url, 0) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(self.no_answer(&trouble.reason));
                    }
                    self.wait(tries, &trouble);
                }
            }
        }
    }

    /// Waits before the next try: as long as the server asks, else 1, 2, 4, ... times the patience.
    pub fn wait(&self, tries: u32, trouble: &Trouble) {
        let own = self.hub.patience * 2u32.pow(tries.saturating_sub(1).min(5));
        std::thread::sleep(trouble.wait.unwrap_or(own).max(own.min(self.hub.patience)));
    }

    pub fn no_answer(&self, reason: &str) -> anyhow::Error {
        input_error(format!(
            "{} cannot be reached: {reason}; check the network and HF_ENDPOINT, or download \
             elsewhere and write the path",
            self.hub.endpoint
        ))
    }
}

fn port(at: &Uri) -> Option<u16> {
    at.port_u16().or_else(|| match at.scheme_str()? {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })
}

/// Whether the token may go there: scheme, host and port are the endpoint's.
fn same_host(at: &Uri, own: &Uri) -> bool {
    at.scheme_str() == own.scheme_str()
        && at
            .host()
            .is_some_and(|host| own.host().is_some_and(|o| o.eq_ignore_ascii_case(host)))
        && port(at) == port(own)
}

/// Where a redirect leads: to an address, or to a path on the same host.
fn joined(at: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let rest = match location.strip_prefix("//") {
        Some(rest) => return format!("{}://{rest}", at.scheme_str()?).parse().ok(),
        None if location.starts_with('/') => location.to_owned(),
        None if location.is_empty() => return None,
        None => {
            let folder = at.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        }
    };
    format!("{}://{}{rest}", at.scheme_str()?, at.authority()?)
        .parse()
        .ok()
}

/// An error without addresses in it: a redirect's address can hold a signature.
fn told(host: &str, error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => format!("the host {host} is not known"),
        ureq::Error::Timeout(_) => format!("{host} does not answer in time"),
        ureq::Error::Io(e) => format!("the connection to {host} failed: {e}"),
        ureq::Error::BadUri(_) => format!("{host} is no address"),
        _ => format!("the connection to {host} failed"),
    }
}
