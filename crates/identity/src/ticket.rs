//! What a user copies from the control plane to a workload: a join token, whom to expect, and who one will be, in one text.
//!
//! Written by `control` when a token is made, read by `proxy` when it joins. The fingerprint of the root lets the workload know
//! its control plane at the first contact, without a second file to copy. The token itself is the business of `token`.

use std::fmt;

use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;
use crate::spiffe::SpiffeId;

/// Between the parts; none of the first two holds it.
const BETWEEN: char = '.';
const SCHEME: &str = "spiffe://";

/// Why a text is no ticket. Displays as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token as `transept token create` prints it; copy it whole: token, fingerprint and name of the workload"
)]
pub struct BadTicket;

/// The parts of the text. `Debug` does not show the token; it is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    token: Zeroizing<String>,
    /// The root that the control plane's certificate leads to.
    pub root: Fingerprint,
    /// The identity that the token is for.
    pub id: SpiffeId,
}

impl Ticket {
    /// Joins the parts.
    pub fn new(token: &str, root: Fingerprint, id: SpiffeId) -> Self {
        Self { token: Zeroizing::new(token.to_owned()), root, id }
    }

    /// Reads the text; white space around it does not count.
    ///
    /// # Errors
    /// When it is not one. Whether the token is good is known to the control plane only.
    pub fn read(text: &str) -> Result<Self, BadTicket> {
        let mut parts = text.trim().splitn(3, BETWEEN);
        let (Some(token), Some(root), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BadTicket);
        };
        let root = root.parse().map_err(|_| BadTicket)?;
        let id = SpiffeId::parse(&format!("{SCHEME}{id}")).map_err(|_| BadTicket)?;
        if !token.starts_with(crate::token::PREFIX) || id.path().is_empty() {
            return Err(BadTicket);
        }
        Ok(Self::new(token, root, id))
    }

    /// The token that the control plane redeems.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The text to copy.
    pub fn write(&self) -> Zeroizing<String> {
        let id = self.id.as_str().trim_start_matches(SCHEME);
        Zeroizing::new(format!("{}{BETWEEN}{}{BETWEEN}{id}", &*self.token, self.root))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("root", &self.root).field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes_and_never_shows_the_token() {
        let id = SpiffeId::parse("spiffe://transept.local/ns/default/sa/cart").unwrap();
        let ticket = Ticket::new("transept_join_abc", Fingerprint::of(b"root"), id);
        let text = ticket.write();
        assert!(
            text.starts_with("transept_join_abc.") && text.ends_with(".transept.local/ns/default/sa/cart"),
            "{}",
            &*text
        );
        assert_eq!(Ticket::read(&format!(" {}\n", &*text)), Ok(ticket.clone()));
        assert!(!format!("{ticket:?}").contains("abc"));
    }

    #[test]
    fn what_is_cut_or_something_else_is_refused() {
        let root = Fingerprint::of(b"root");
        for bad in [
            String::new(),
            "transept_join_abc".to_owned(),
            format!("transept_join_abc.{root}"),
            format!("transept_join_abc.{root}.transept.local"),
            format!("transept_join_abc.{root}.UPPER/ns/default/sa/cart"),
            format!("other.{root}.transept.local/ns/default/sa/cart"),
            "transept_join_abc.beef.transept.local/ns/default/sa/cart".to_owned(),
        ] {
            assert_eq!(Ticket::read(&bad), Err(BadTicket), "{bad}");
        }
    }
}
