//! HTTP/1.1 messages, read and written one at a time (RFC 9112).
//!
//! Called by the test client and by the echo servers. It is lenient on purpose: a test wants to see what came, not to have it
//! refused. It knows nothing of routing, TLS or limits.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A byte stream in both directions: a TCP connection, TLS over it, or an in-memory pipe.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The largest head or line that is read before giving up, in bytes.
const HEAD_LIMIT: usize = 1 << 20;

/// A start line and its field lines, in the order and the spelling of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line, without the line end.
    pub start_line: String,
    /// Name and value of every field line; values without surrounding white space.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of the first line of this name, compared without case.
    pub fn field(&self, name: &str) -> Option<&str> {
        first(&self.fields, name)
    }

    /// The status code, when the start line is a status line.
    pub fn status(&self) -> Option<u16> {
        self.start_line.split(' ').nth(1)?.parse().ok()
    }
}

/// The first value of `name` in a list of fields, compared without case.
pub fn first<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// All values of `name` joined with a bare comma, as the conformance suite compares them; `None` when there is no such field.
pub fn joined(fields: &[(String, String)], name: &str) -> Option<String> {
    let values: Vec<&str> =
        fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// How the body of a message ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Everything up to the end of the connection.
    UntilClose,
}

impl Framing {
    /// The framing of a request.
    pub fn of_request(head: &Head) -> Framing {
        Framing::declared(head).unwrap_or(Framing::Empty)
    }

    /// The framing of the answer to `method`.
    pub fn of_response(head: &Head, method: &str) -> Framing {
        match head.status() {
            _ if method == "HEAD" => Framing::Empty,
            Some(100..=199 | 204 | 304) => Framing::Empty,
            _ => Framing::declared(head).unwrap_or(Framing::UntilClose),
        }
    }

    fn declared(head: &Head) -> Option<Framing> {
        if let Some(coding) = head.field("transfer-encoding") {
            return coding.to_ascii_lowercase().contains("chunked").then_some(Framing::Chunked);
        }
        head.field("content-length")?.parse().ok().map(Framing::Length)
    }
}

/// A body and what came after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The content, with any chunking taken off.
    pub content: Vec<u8>,
    /// Trailer fields; only chunked bodies have them.
    pub trailers: Vec<(String, String)>,
}

/// Reads messages from a stream and keeps what was read too far.
#[derive(Debug)]
pub struct Reader<S> {
    stream: S,
    ahead: Vec<u8>,
}

impl<S: Stream> Reader<S> {
    /// Starts reading at the present place of the stream.
    pub fn new(stream: S) -> Reader<S> {
        Reader { stream, ahead: Vec::new() }
    }

    /// The stream itself, for writing.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Gives the stream back, with the bytes that were read but not used.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.ahead)
    }

    /// Writes bytes and flushes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads a head. `None` when the stream ended before the first byte.
    ///
    /// # Errors
    /// The stream failed, ended inside the head, or the head has no colon where one must be.
    pub async fn read_head(&mut self) -> io::Result<Option<Head>> {
        if self.ahead.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        let start_line = self.read_line().await?;
        let fields = self.read_fields().await?;
        Ok(Some(Head { start_line, fields }))
    }

    /// Reads a body and, when it is chunked, its trailers.
    ///
    /// # Errors
    /// The stream failed or ended early, or a chunk size is not a number.
    pub async fn read_body(&mut self, framing: Framing) -> io::Result<Body> {
        let mut body = Body::default();
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(io::Error::other)?;
                body.content = self.read_exact(length).await?;
            }
            Framing::Chunked => loop {
                let line = self.read_line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    body.trailers = self.read_fields().await?;
                    break;
                }
                body.content.extend(self.read_exact(size).await?);
                self.read_line().await?;
            },
            Framing::UntilClose => {
                while self.fill().await? > 0 {}
                body.content = std::mem::take(&mut self.ahead);
            }
        }
        Ok(body)
    }

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// The stream failed or ended early.
    pub async fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < count {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.ahead.split_off(count);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    async fn read_fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| io::Error::other(format!("field line without a colon: {line:?}")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads what is there, or waits for more, up to `most` bytes; nothing when the stream has ended.
    ///
    /// # Errors
    /// The stream failed.
    pub async fn read_some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            self.fill().await?;
        }
        let rest = self.ahead.split_off(most.min(self.ahead.len()));
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    async fn read_line(&mut self) -> io::Result<String> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.ahead[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.ahead.split_off(searched + at + 1);
                let line = std::mem::replace(&mut self.ahead, rest);
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            searched = self.ahead.len();
            if searched > HEAD_LIMIT {
                return Err(io::Error::other("line is too long"));
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 8192];
        let count = self.stream.read(&mut buffer).await?;
        self.ahead.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// A body that is read piece by piece, as it arrives.
#[derive(Debug)]
pub struct Pieces {
    framing: Framing,
    /// Bytes that are left of the body or, when it is chunked, of the chunk.
    left: usize,
    ended: bool,
    trailers: Vec<(String, String)>,
}

impl Pieces {
    /// The body that begins at the present place of a reader.
    ///
    /// # Errors
    /// It is longer than any memory.
    pub fn new(framing: Framing) -> io::Result<Pieces> {
        let left = match framing {
            Framing::Length(length) => usize::try_from(length).map_err(io::Error::other)?,
            Framing::Empty | Framing::Chunked | Framing::UntilClose => 0,
        };
        let ended = matches!(framing, Framing::Empty | Framing::Length(0));
        Ok(Pieces { framing, left, ended, trailers: Vec::new() })
    }

    /// The next piece; `None` at the end of the body.
    ///
    /// # Errors
    /// The stream failed or ended early, or a chunk size is not a number.
    pub async fn next<S: Stream>(&mut self, reader: &mut Reader<S>) -> io::Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        if self.framing == Framing::Chunked && self.left == 0 {
            let line = reader.read_line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            self.left = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if self.left == 0 {
                self.trailers = reader.read_fields().await?;
                self.ended = true;
                return Ok(None);
            }
        }
        if self.framing == Framing::UntilClose {
            let piece = reader.read_some(usize::MAX).await?;
            self.ended = piece.is_empty();
            return Ok((!self.ended).then_some(piece));
        }
        let piece = reader.read_some(self.left).await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= piece.len();
        match self.framing {
            Framing::Chunked if self.left == 0 => {
                reader.read_line().await?;
            }
            _ => self.ended = self.left == 0 && self.framing != Framing::Chunked,
        }
        Ok(Some(piece))
    }

    /// The trailer fields, once the body has ended.
    pub fn trailers(&self) -> &[(String, String)] {
        &self.trailers
    }
}

/// The bytes of a head: start line, fields, empty line.
pub fn head_bytes(start_line: &str, fields: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("{start_line}\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reader_of(bytes: &[u8]) -> Reader<tokio::io::DuplexStream> {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        near.write_all(bytes).await.expect("pipe takes the bytes");
        drop(near);
        Reader::new(far)
    }

    #[tokio::test]
    async fn two_messages_follow_each_other_on_one_stream() {
        let bytes = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n0\r\nSum: 9\r\n\r\n\
            HTTP/1.1 204 No Content\r\n\r\n";
        let mut reader = reader_of(bytes).await;
        let head = reader.read_head().await.expect("reads").expect("a head");
        assert_eq!(head.status(), Some(200));
        assert_eq!(joined(&head.fields, "X-a").as_deref(), Some("1,2"));
        let body = reader.read_body(Framing::of_response(&head, "GET")).await.expect("reads");
        assert_eq!(body.content, b"abc");
        assert_eq!(body.trailers, [("Sum".to_owned(), "9".to_owned())]);
        let head = reader.read_head().await.expect("reads").expect("a head");
        assert_eq!(Framing::of_response(&head, "GET"), Framing::Empty);
        assert_eq!(reader.read_head().await.expect("reads"), None);
    }

    #[tokio::test]
    async fn a_body_comes_in_pieces() {
        let mut reader = reader_of(b"3\r\nabc\r\n2;e=1\r\nde\r\n0\r\nSum: 9\r\n\r\nfg").await;
        let mut pieces = Pieces::new(Framing::Chunked).expect("a body");
        let mut next = async || pieces.next(&mut reader).await.expect("reads");
        assert_eq!(next().await.as_deref(), Some(&b"abc"[..]));
        assert_eq!(next().await.as_deref(), Some(&b"de"[..]));
        assert_eq!(next().await, None);
        assert_eq!(pieces.trailers(), [("Sum".to_owned(), "9".to_owned())]);
        let mut pieces = Pieces::new(Framing::Length(3)).expect("a body");
        assert_eq!(pieces.next(&mut reader).await.expect("reads").as_deref(), Some(&b"fg"[..]));
        assert!(pieces.next(&mut reader).await.is_err());
    }

    #[tokio::test]
    async fn an_end_inside_a_message_is_an_error() {
        let mut reader = reader_of(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
        let head = reader.read_head().await.expect("reads").expect("a head");
        let failure = reader.read_body(Framing::of_response(&head, "GET")).await;
        assert_eq!(failure.expect_err("too short").kind(), io::ErrorKind::UnexpectedEof);
    }
}
