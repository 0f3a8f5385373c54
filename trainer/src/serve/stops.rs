//! Where an answer ends by a text that the client named.

use super::token_text::TokenText;

/// Cuts a text at the first stop string, and holds back what may become one.
#[derive(Clone, Debug, Default)]
pub(super) struct StopStrings {
    stops: Vec<String>,
    /// Whether the stop string itself belongs to the answer.
    include: bool,
    held: TokenText,
}

impl StopStrings {
    /// Watches for `stops`, of which none is empty.
    pub(super) fn new(stops: Vec<String>, include: bool) -> Self {
        Self {
            stops,
            include,
            held: TokenText::default(),
        }
    }

    /// The text that can no longer be part of a stop string, and whether one has come; the text before it is then complete.
    pub(super) fn push(&mut self, text: &TokenText) -> (TokenText, bool) {
        self.held.append(text);
        let held = self.held.all();
        let first = self
            .stops
            .iter()
            .filter_map(|stop| held.find(stop).map(|start| (start, stop.len())))
            .min();
        if let Some((start, length)) = first {
            let end = start + if self.include { length } else { 0 };
            self.held.truncate(end);
            self.held.show_from(start);
            return (self.held.take_all(), true);
        }
        let beginnings = held.char_indices().map(|(start, _)| start);
        let kept = beginnings
            .filter(|start| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&held[*start..]))
            })
            .min()
            .unwrap_or(held.len());
        (self.held.take(kept), false)
    }

    /// What was held back, when no more text comes.
    pub(super) fn finish(&mut self) -> TokenText {
        self.held.take_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> TokenText {
        let mut whole = TokenText::default();
        whole.push(text, true);
        whole
    }

    fn push(stops: &mut StopStrings, said: &str) -> (String, bool) {
        let (given, stopped) = stops.push(&text(said));
        (given.all().to_owned(), stopped)
    }

    fn stops(strings: &[&str]) -> StopStrings {
        let strings = strings.iter().map(|&stop| stop.to_owned());
        StopStrings::new(strings.collect(), false)
    }

    #[test]
    fn a_stop_string_that_comes_in_pieces_is_cut_and_none_of_it_is_given_out() {
        let mut stops = stops(&["END", "\n\n"]);
        assert_eq!(push(&mut stops, "one E"), ("one ".to_owned(), false));
        assert_eq!(push(&mut stops, "N"), (String::new(), false));
        assert_eq!(push(&mut stops, "GLAND\n"), ("ENGLAND".to_owned(), false));
        assert_eq!(push(&mut stops, "\nrest END"), (String::new(), true));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts() {
        assert_eq!(push(&mut stops(&["c", "b"]), "abc"), ("a".to_owned(), true));
    }

    #[test]
    fn what_was_held_back_comes_at_the_end() {
        let mut stops = stops(&["éé"]);
        assert_eq!(push(&mut stops, "aé"), ("a".to_owned(), false));
        assert_eq!(stops.finish().all(), "é");
    }

    #[test]
    fn a_stop_string_stays_where_it_is_asked_for() {
        let mut stops = StopStrings::new(vec!["b".to_owned(), "<end>".to_owned()], true);
        assert_eq!(push(&mut stops, "abc"), ("ab".to_owned(), true));
        let mut said = text("a");
        said.push("<end>", false);
        let (given, _) = stops.push(&said);
        assert_eq!(given.seen(0..given.all().len()), "a<end>");
    }

    #[test]
    fn a_special_token_that_clients_do_not_see_is_a_stop_string_too() {
        let mut said = text("The east gate.");
        said.push("<|im_end|>", false);
        said.push(" and on", true);
        let (given, stopped) = stops(&["<|im_end|>"]).push(&said);
        assert!(stopped);
        assert_eq!(given.all(), "The east gate.");
        let (given, _) = stops(&["|im_end|> a"]).push(&said);
        assert_eq!(given.seen(0..given.all().len()), "The east gate.");
    }
}
