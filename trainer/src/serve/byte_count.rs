//! An amount of memory on the command line, written as Kubernetes writes quantities.

/// `2Gi`, `1.5G` or `1048576` in bytes.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let fault = || format!("`{text}`, expected a number of bytes as 2Gi, 500M or 1048576");
    let split = text.find(|character: char| character.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1_u64 << 40,
        _ => return Err(fault()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(fault);
    }
    let bytes = number.parse::<f64>().map_err(|_| fault())? * factor as f64;
    if bytes >= 0.0 && bytes < u64::MAX as f64 {
        Ok(bytes as u64)
    } else {
        Err(fault())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1048576", Some(1 << 20))]
    #[case("2Gi", Some(2 << 30))]
    #[case("1.5Mi", Some(3 << 19))]
    #[case("500M", Some(500_000_000))]
    #[case("0", Some(0))]
    #[case("", None)]
    #[case("Gi", None)]
    #[case("2 GB", None)]
    #[case("-1", None)]
    #[case("99999999Ti", None)]
    #[case("inf", None)]
    fn quantities_are_read_as_kubernetes_writes_them(
        #[case] text: &str,
        #[case] bytes: Option<u64>,
    ) {
        assert_eq!(parse(text).ok(), bytes, "{:?}", parse(text));
    }
}
