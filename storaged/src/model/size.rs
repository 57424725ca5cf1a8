//! Sizes as people write them: `10g`, `512M`, `1.5GiB`. Units are binary, as Docker's are.

/// `None` for what is no size.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit: u64 = match text[number.len()..].trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.starts_with('+') {
        return None;
    }
    let mut bytes = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let mut part = unit;
    for digit in fraction.bytes() {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        bytes = bytes.checked_add(part * u64::from(digit) / 10)?;
        // Digits beyond a byte count for nothing.
        part /= 10;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_are_binary_and_may_be_written_out() {
        for (text, bytes) in [
            ("0", 0),
            ("42", 42),
            ("42b", 42),
            ("10k", 10 << 10),
            ("10KB", 10 << 10),
            ("10kib", 10 << 10),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("1 GiB", 1 << 30),
            ("2t", 2 << 40),
            ("1P", 1 << 50),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "g",
            "-1",
            "+1",
            "1x",
            "1gg",
            "1.2.3g",
            ".5g",
            "1e3",
            "0x10",
            "1bb",
            "1bi",
            "99999999999p",
            "٣",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
