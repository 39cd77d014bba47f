//! The protocol of Redis and Valkey (RESP2), as much of it as orders need: commands out, replies in, several at a time.
//!
//! Written here rather than taken from a client library: it is one command on one connection, and what makes it right (when a server is given
//! up, and who is told) is the business of `stores.rs`. Everything that a server sends is bounded.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::tls::in_words;

/// The longest line, the longest text, and the most items of a list.
const MOST_LINE: usize = 4_096;
const MOST_TEXT: usize = 65_536;
const MOST_ITEMS: usize = 64;
/// How much of what a server says of an error is told.
const MOST_TOLD: usize = 160;
/// How much of a secret in a text keeps the text from being told: a server that quotes a command may cut it.
const GIVEAWAY: usize = 6;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Text(Vec<u8>),
    Number(i64),
    List(Vec<Reply>),
    Nothing,
}

/// Why a server is given up.
#[derive(Debug)]
pub(super) enum Trouble {
    Io(io::Error),
    /// It said something that it should not.
    Answer(String),
    /// It does not know the script any more, and has done nothing.
    NoScript,
    Slow,
    /// Nobody needs it any more.
    Unused,
}

impl Trouble {
    /// Whether the server has closed the connection.
    pub(super) fn is_closing(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match self {
            Trouble::Io(error) => {
                matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
            }
            _ => false,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Io(error) => out.write_str(&in_words(error)),
            Trouble::Answer(what) => out.write_str(what),
            Trouble::NoScript => out.write_str("the server forgets its script as soon as it has it"),
            Trouble::Slow => out.write_str("it takes too long"),
            Trouble::Unused => out.write_str("nobody uses it"),
        }
    }
}

/// What an error of the server means for whoever has written the configuration.
fn explained(word: &str, text: Option<String>) -> String {
    let remedy = match word {
        "WRONGPASS" => {
            "user and password are not valid there: mend `username` or the Secret that `passwordSecret` names"
        }
        "NOAUTH" => "it asks for a password: write `passwordSecret`",
        "NOPERM" => {
            "the user may not do this: allow it AUTH, SELECT, SCRIPT, EVALSHA, TIME, GET and SET on keys `transept:*`"
        }
        _ => {
            let text = text.map(|text| format!(": {text}")).unwrap_or_default();
            return format!("the server says {word}{text}");
        }
    };
    format!("the server says {word}, {remedy}")
}

/// One connection.
pub(super) struct Client<S> {
    stream: S,
    out: Vec<u8>,
    inbox: Vec<u8>,
    /// How much of `inbox` has been read.
    read: usize,
    /// The password that was sent.
    secret: Vec<u8>,
    /// Whether the command that is answered has it.
    is_secret: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(stream: S) -> Self {
        Client { stream, out: Vec::new(), inbox: Vec::new(), read: 0, secret: Vec::new(), is_secret: false }
    }

    /// Says who we are. Of an error nothing is told but its code: the server may quote what it was told, in any form.
    pub(super) async fn authenticate(&mut self, words: &[&[u8]]) -> Result<Reply, Trouble> {
        self.is_secret = true;
        let reply = self.ask(words).await;
        self.is_secret = false;
        reply
    }

    /// Sends a command and waits for its reply.
    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Result<Reply, Trouble> {
        self.add(words);
        self.send().await?;
        self.reply().await
    }

    /// Adds a command to those that are sent next.
    pub(super) fn add(&mut self, words: &[&[u8]]) {
        if let [b"AUTH", .., secret] = words {
            self.secret = secret.to_vec();
        }
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what was added.
    pub(super) async fn send(&mut self) -> Result<(), Trouble> {
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.out.clear();
        Ok(())
    }

    /// The next reply. An error that the server reports is trouble, in its words as far as they quote no command.
    pub(super) async fn reply(&mut self) -> Result<Reply, Trouble> {
        let line = self.line().await?;
        let [kind, rest @ ..] = &line[..] else {
            return Err(wrong("an empty line"));
        };
        match kind {
            b'*' => {
                let Some(count) = length(rest, MOST_ITEMS)? else { return Ok(Reply::Nothing) };
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    let line = self.line().await?;
                    items.push(self.item(&line).await?);
                }
                Ok(Reply::List(items))
            }
            _ => self.item(&line).await,
        }
    }

    /// Anything but a list.
    async fn item(&mut self, line: &[u8]) -> Result<Reply, Trouble> {
        let [kind, rest @ ..] = line else {
            return Err(wrong("an empty line"));
        };
        match kind {
            b'+' => Ok(Reply::Text(rest.to_vec())),
            b':' => Ok(Reply::Number(number(rest)?)),
            b'-' => match &*first_word(rest) {
                "NOSCRIPT" => Err(Trouble::NoScript),
                word => Err(Trouble::Answer(explained(word, self.tellable(rest)))),
            },
            b'$' => {
                let Some(count) = length(rest, MOST_TEXT)? else { return Ok(Reply::Nothing) };
                while self.inbox.len() - self.read < count + 2 {
                    self.fill().await?;
                }
                let text = self.inbox[self.read..self.read + count].to_vec();
                self.read += count + 2;
                Ok(Reply::Text(text))
            }
            _ => Err(wrong("something that is no reply")),
        }
    }

    /// What follows the code of an error, bounded; nothing where it may quote the command that held the password.
    fn tellable(&self, error: &[u8]) -> Option<String> {
        let start = self.secret.get(..GIVEAWAY).unwrap_or(&self.secret);
        let quotes = |words: &[u8]| !words.is_empty() && error.windows(words.len()).any(|part| part == words);
        if self.is_secret || quotes(start) || quotes(b"args") {
            return None;
        }
        let (_, text) = std::str::from_utf8(error).ok()?.split_once(' ')?;
        let is_plain = |one: &char| one.is_ascii_graphic() || *one == ' ';
        Some(text.chars().filter(is_plain).take(MOST_TOLD).collect())
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            let unread = &self.inbox[self.read..];
            if let Some(end) = unread.windows(2).position(|two| two == b"\r\n") {
                let line = unread[..end].to_vec();
                self.read += end + 2;
                return Ok(line);
            }
            if unread.len() > MOST_LINE {
                return Err(wrong("an endless line"));
            }
            self.fill().await?;
        }
    }

    /// Waits until the server closes the connection, or sends what nobody has asked for.
    pub(super) async fn closed(&mut self) {
        // Whatever it is, nothing more is asked on it.
        let _ = self.fill().await;
    }

    async fn fill(&mut self) -> Result<(), Trouble> {
        self.inbox.drain(..self.read);
        self.read = 0;
        if self.stream.read_buf(&mut self.inbox).await? == 0 {
            return Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }
}

fn wrong(what: &str) -> Trouble {
    Trouble::Answer(format!("the server sends {what}"))
}

fn number(text: &[u8]) -> Result<i64, Trouble> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| wrong("no number"))
}

/// None for `-1`, which stands for nothing.
fn length(text: &[u8], most: usize) -> Result<Option<usize>, Trouble> {
    match number(text)? {
        -1 => Ok(None),
        count => match usize::try_from(count) {
            Ok(count) if count <= most => Ok(Some(count)),
            _ => Err(wrong("too much")),
        },
    }
}

/// The code of an error: what follows it may quote the command, and that a password.
fn first_word(text: &[u8]) -> String {
    let word = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    word.iter().take(32).filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn replies(text: &[u8], count: usize) -> Result<Vec<Reply>, Trouble> {
        let (mut far, near) = tokio::io::duplex(16);
        let text = text.to_vec();
        let sending = tokio::spawn(async move {
            // The reader may have seen enough.
            let _ = far.write_all(&text).await;
        });
        let mut client = Client::new(near);
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(client.reply().await?);
        }
        drop(client);
        sending.await.expect("sent");
        Ok(all)
    }

    #[tokio::test]
    async fn replies_come_in_pieces_and_several_at_a_time() {
        let text = b"+OK\r\n:-7\r\n$5\r\nab\r\nc\r\n$-1\r\n*2\r\n:1\r\n$1\r\nx\r\n";
        let all = replies(text, 5).await.expect("replies");
        let list = Reply::List(vec![Reply::Number(1), Reply::Text(b"x".to_vec())]);
        let text = |text: &[u8]| Reply::Text(text.to_vec());
        assert_eq!(all, [text(b"OK"), Reply::Number(-7), text(b"ab\r\nc"), Reply::Nothing, list]);
    }

    #[tokio::test]
    async fn hostile_replies_are_trouble() {
        let long = vec![b'+'; 10_000];
        for text in [
            &b"$99999999999\r\n"[..],
            b"*1000\r\n",
            b"$-2\r\n",
            b":one\r\n",
            b"?\r\n",
            b"\r\n",
            b"*1\r\n*1\r\n:1\r\n",
            b"+half",
            &long,
        ] {
            assert!(replies(text, 1).await.is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn an_error_is_told_in_the_words_of_the_server_without_a_password() {
        let told = |answer: &'static [u8]| async move {
            let (mut far, near) = tokio::io::duplex(1024);
            far.write_all(answer).await.expect("sent");
            let answered = Client::new(near).ask(&[b"AUTH", b"shop", b"hunter2hunter2"]).await;
            let why = answered.expect_err("trouble").to_string();
            assert!(!why.contains("hunt"), "{why}");
            why
        };
        let without = b"-ERR AUTH <password> called without any password configured for the default user.\r\n";
        assert_eq!(
            told(without).await,
            "the server says ERR: AUTH <password> called without any password configured for the default user."
        );
        assert_eq!(told(b"-LOADING of 'hunter2' and more\r\n").await, "the server says LOADING");
        let unknown = b"-ERR unknown command 'AUTH', with args beginning with: 'shop' 'hun...' \r\n";
        assert_eq!(told(unknown).await, "the server says ERR");
        let refused = told(b"-WRONGPASS invalid password 'hunter2'\r\n").await;
        assert!(refused.starts_with("the server says WRONGPASS, user and password are not valid there"), "{refused}");
    }
}
