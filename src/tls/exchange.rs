//! One request to an https server and its answer, whatever the server does behind it.
//!
//! A server may close as soon as it has answered (`Connection: close`, RFC 9112 section 9.6), so
//! that the end of the connection is here before anybody has looked at the answer. What came whole
//! by then counts (section 9.8).

use std::pin::pin;

/// Drives `connection` until there is an `answer`. When the connection has ended the answer is whole,
/// or an error.
pub async fn drive<T, E>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (mut connection, mut answer) = (pin!(connection), pin!(answer));
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = &mut connection => {}
    }
    answer.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::Request;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// The body of what a server answers that says it all at once and closes.
    async fn asked(answer: &'static str) -> Result<String, String> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = theirs.read(&mut request).await;
            theirs.write_all(answer.as_bytes()).await.expect("written");
        });
        let http = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours))
            .await
            .map_err(http)?;
        let request = Request::get("/")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let answer = async {
            let response = sender.send_request(request).await.map_err(http)?;
            let body = response.into_body().collect().await.map_err(http)?;
            Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        };
        drive(connection, answer).await
    }

    #[tokio::test]
    async fn r19_an_answer_that_is_complete_counts_however_the_server_closes() {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\n\r\nbody",
            "HTTP/1.0 200 OK\r\n\r\nbody",
            "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        ] {
            assert_eq!(asked(answer).await.as_deref(), Ok("body"), "{answer:?}");
        }
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
            "HTTP/1.1 200",
        ] {
            assert!(asked(answer).await.is_err(), "{answer:?}");
        }
    }
}
