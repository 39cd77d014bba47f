//! "Did you mean": the nearest of some known words.
//!
//! Used wherever a name out of a closed list was not found. It deliberately knows nothing of what the words mean.

/// The candidate nearest to `word`, or none when nothing is near enough to be worth suggesting. Words that differ only in
/// case, `-` or `_` always count as near.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = flatten(word);
    let limit = (plain.chars().count() / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let distance = distance(&plain, &flatten(candidate), limit);
        if let Some(distance) = distance
            && best.is_none_or(|(least, _)| distance < least)
        {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A sentence for a remedy: the nearest candidate, or the whole list when that is short, or nothing.
pub fn remedy(word: &str, candidates: &[&str]) -> Option<String> {
    if let Some(near) = nearest(word, candidates.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    if candidates.is_empty() {
        return None;
    }
    // Who writes `user` means `username`.
    let plain = flatten(word);
    let mut longer = candidates.iter().filter(|known| plain.len() >= 4 && flatten(known).starts_with(&plain));
    if let (Some(longer), None) = (longer.next(), longer.next()) {
        return Some(format!("did you mean `{longer}`?"));
    }
    Some(format!("known here: {}", candidates.join(", ")))
}

fn flatten(word: &str) -> String {
    // A hostile file may hold a key of megabytes; nothing that long is near a real word.
    word.chars().take(64).filter(|c| *c != '-' && *c != '_').flat_map(char::to_lowercase).collect()
}

/// Optimal string alignment distance (insert, delete, replace, swap neighbours), or none when it is more than `limit`.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    Some(last[b.len()]).filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["path", "headers", "queryParams", "method"];
        assert_eq!(nearest("pth", known), Some("path"));
        assert_eq!(nearest("apth", known), Some("path"));
        assert_eq!(nearest("query_params", known), Some("queryParams"));
        let store = ["url", "username", "passwordSecret"];
        assert_eq!(remedy("user", &store).as_deref(), Some("did you mean `username`?"));
        assert_eq!(remedy("password", &store).as_deref(), Some("did you mean `passwordSecret`?"));
        assert_eq!(
            remedy("pass", &["passwordSecret", "passwordHash"]).as_deref(),
            Some("known here: passwordSecret, passwordHash")
        );
        assert_eq!(nearest("Header", known), Some("headers"));
        assert_eq!(nearest("cookies", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn without_a_near_word_the_list_is_shown() {
        assert_eq!(remedy("zzzzzz", &["a", "b"]), Some("known here: a, b".to_owned()));
        assert_eq!(remedy("zzz", &[]), None);
    }
}
