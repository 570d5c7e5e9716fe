//! Requests to a provider's API: bounded in bytes and time, and each failure with its remedy.
//!
//! An API is spoken to over https with a trusted certificate; http is for loopback alone (labs).
//! No redirect is followed: credentials go where they belong and nowhere else.

use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::credentials::{Read, Token};
use super::data::{Data, Record};
use super::{Change, Problem, Provider};

/// Bytes of an answer: a page of a zone has a few hundred kB at most.
const ANSWER: usize = 4 * 1024 * 1024;
/// A provider that asks for a longer pause than this is not waited for.
const PAUSE: Duration = Duration::from_secs(60);
/// The pause if it names none.
const USUAL_PAUSE: Duration = Duration::from_secs(5);
/// How often one request is made.
const TRIES: usize = 4;
/// Characters of an error that are shown.
const SAID: usize = 300;

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An API below one address.
pub(super) struct Api {
    provider: Provider,
    file: PathBuf,
    base: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    time: Duration,
}

impl Api {
    /// At `url`, or where the provider says that it is.
    pub(super) fn new(read: &Read, url: Option<&str>, usual: &str) -> Result<Api, Problem> {
        let base = url.unwrap_or(usual).trim_end_matches('/').to_owned();
        if !is_safe(&base) {
            let problem = format!("url = \"{base}\" does not begin with https://");
            return Err(read.wrong(problem));
        }
        let tls = read.tls.clone().ok_or_else(|| Problem::Away {
            provider: read.provider.name(),
            why: "this system trusts no CA; install ca-certificates".to_owned(),
        })?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Api {
            provider: read.provider,
            file: read.file.clone(),
            base,
            client: Client::builder(TokioExecutor::new()).build(connector),
            headers: Vec::new(),
            time: read.time,
        })
    }

    /// At the address that stands with the token, or at the usual one; says `SCHEME TOKEN` with
    /// each request.
    pub(super) fn with_token(read: &Read, scheme: &str, usual: &str) -> Result<Api, Problem> {
        let with: Token = read.parse()?;
        let said = format!("{scheme} {}", with.token);
        Api::new(read, with.url.as_deref(), usual)?.secret(read, "authorization", &said)
    }

    /// Sends this with each request; it is never logged.
    pub(super) fn secret(
        mut self,
        read: &Read,
        name: &'static str,
        value: &str,
    ) -> Result<Api, Problem> {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| read.wrong("a secret with characters that no secret has"))?;
        value.set_sensitive(true);
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }

    /// The address of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Asks for JSON; `None`: there is no such thing (404).
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Problem> {
        let answer = self.json(Method::GET, path, None).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => self.read(&answer.body).map(Some),
        }
    }

    /// Changes something; what it is of no use afterwards is not read.
    pub(super) async fn put(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        what: &str,
    ) -> Result<(), Problem> {
        let answer = self.json(method.clone(), path, body).await?;
        match answer.status {
            // Somebody else was faster.
            StatusCode::NOT_FOUND if method == Method::DELETE => Ok(()),
            StatusCode::NOT_FOUND => Err(self.refused(what, &answer)),
            _ => Ok(()),
        }
    }

    /// Changes a set record by record, where each has an id below the path `records`; `body` is one
    /// as it is written there.
    pub(super) async fn change_each(
        &self,
        records: &str,
        change: &Change,
        body: impl Fn(&Data) -> Result<Value, Problem> + Send + Sync,
    ) -> Result<(), Problem> {
        let mut leaving = change.remove.iter();
        for data in &change.add {
            let body = body(data)?;
            let what = Record::new(&change.name, data.clone()).to_string();
            // In place where one goes, so that no moment is without a record.
            let (method, path) = match leaving.next() {
                Some(old) => (Method::PUT, format!("{records}/{}", old.id)),
                None => (Method::POST, records.to_owned()),
            };
            self.put(method, &path, Some(&body), &what).await?;
        }
        for old in leaving {
            let path = format!("{records}/{}", old.id);
            let what = old.record.to_string();
            self.put(Method::DELETE, &path, None, &what).await?;
        }
        Ok(())
    }

    /// The answer to a request with JSON: a success, or 404.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Problem> {
        let url = self.url(path);
        let what = format!("{method} {path}");
        let body = body.map(ToString::to_string);
        self.ask(&what, || {
            let mut request = Request::builder().method(method.clone()).uri(&url);
            if body.is_some() {
                request = request.header(CONTENT_TYPE, "application/json");
            }
            let body = body.clone().unwrap_or_default();
            request
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| error.to_string())
        })
        .await
    }

    /// Makes a request until it is answered with something else than "later".
    pub(super) async fn ask(
        &self,
        what: &str,
        make: impl Fn() -> Result<Request<Full<Bytes>>, String>,
    ) -> Result<Answer, Problem> {
        for tries in 1.. {
            let mut request = make().map_err(|why| self.away(why))?;
            let headers = request.headers_mut();
            headers.insert(USER_AGENT, HeaderValue::from_static("chapar"));
            for (name, value) in &self.headers {
                headers.insert(name, value.clone());
            }
            let answer = self.once(request).await?;
            let status = answer.status;
            if status == StatusCode::TOO_MANY_REQUESTS {
                let wait = pause(&answer.headers);
                if tries < TRIES && wait <= PAUSE {
                    tracing::info!(target: "publish", provider = self.provider.name(), wait = wait.as_secs(), "asked to wait");
                    tokio::time::sleep(wait).await;
                    continue;
                }
                let said = said(&answer);
                return Err(Problem::Patience {
                    provider: self.provider.name(),
                    said,
                    wait,
                });
            }
            return match status {
                _ if status.is_success() || status == StatusCode::NOT_FOUND => Ok(answer),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Problem::Denied {
                    provider: self.provider.name(),
                    said: said(&answer),
                    file: self.file.clone(),
                    wants: self.provider.wants(),
                }),
                _ if status.is_server_error() => Err(self.away(said(&answer))),
                _ if status.is_redirection() => {
                    let why = format!("it redirects, {status}");
                    Err(self.malformed(why))
                }
                _ => Err(self.refused(what, &answer)),
            };
        }
        Err(self.away("it is busy".to_owned()))
    }

    async fn once(&self, request: Request<Full<Bytes>>) -> Result<Answer, Problem> {
        let exchange = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| self.away(chain(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER).collect().await;
            let body = body.map_err(|error| self.away(error.to_string()))?;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        match tokio::time::timeout(self.time, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.away(format!(
                "no answer within {} s (dns.provider_time)",
                self.time.as_secs_f32()
            ))),
        }
    }

    /// What an answer says.
    pub(super) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Problem> {
        serde_json::from_slice(body).map_err(|error| self.malformed(error.to_string()))
    }

    pub(super) fn malformed(&self, why: impl Into<String>) -> Problem {
        Problem::Malformed {
            provider: self.provider.name(),
            why: why.into(),
        }
    }

    pub(super) fn refused(&self, what: &str, answer: &Answer) -> Problem {
        Problem::Refused {
            provider: self.provider.name(),
            what: what.to_owned(),
            said: said(answer),
        }
    }

    fn away(&self, why: impl Into<String>) -> Problem {
        Problem::Away {
            provider: self.provider.name(),
            why: why.into(),
        }
    }
}

/// https, or http on loopback.
fn is_safe(base: &str) -> bool {
    let Ok(uri) = base.parse::<Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        _ => false,
    }
}

fn pause(headers: &HeaderMap) -> Duration {
    let named = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let seconds = named.and_then(|value| value.trim().parse().ok());
    seconds.map_or(USUAL_PAUSE, Duration::from_secs)
}

/// Status and the provider's own words, on one line.
fn said(answer: &Answer) -> String {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let words = [
        "/errors/0/message",
        "/error/message",
        "/message",
        "/detail",
        "/non_field_errors/0",
        "/error",
    ];
    let words = words
        .iter()
        .find_map(|path| json.pointer(path)?.as_str().map(str::to_owned))
        .or_else(|| tag(&String::from_utf8_lossy(&answer.body), "Message"))
        .unwrap_or_else(|| String::from_utf8_lossy(&answer.body).into_owned());
    let words: String = words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SAID)
        .collect();
    match words.trim() {
        "" => answer.status.to_string(),
        words => format!("{}: {words}", answer.status.as_u16()),
    }
}

/// The text between the first `<name>` and its end.
fn tag(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0.to_owned())
}

/// An error and what caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_this_host_encrypted_alone() {
        for (url, safe) in [
            ("https://api.example.net/v1", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("http://api.example.net", false),
            ("ftp://127.0.0.1", false),
            ("api.example.net", false),
            ("https://", false),
        ] {
            assert_eq!(is_safe(url), safe, "{url}");
        }
    }
}
