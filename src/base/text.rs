//! Text of others: made harmless for a line, and compared with a pattern. Pure.

/// Control characters become spaces; what is longer than `longest` bytes is cut.
pub fn clean(text: &str, longest: usize) -> String {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = text.get(..end).unwrap_or_default();
    kept.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Whether `text` is `pattern`, in which `*` stands for anything; case does not matter. Takes time
/// in proportion to the product of the lengths at worst.
pub fn like(pattern: &str, text: &str) -> bool {
    let text = text.to_lowercase();
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else {
        return text.is_empty();
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, is) in [
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*b", "ab", true),
            ("ab*ba", "aba", false),
            ("a", "ab", false),
            ("äpfel*", "ÄPFEL und Birnen", true),
        ] {
            assert_eq!(like(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(clean("aé", 2), "a");
        assert_eq!(clean("a\u{1b}[31m\u{85}", 100), "a [31m ");
    }
}
