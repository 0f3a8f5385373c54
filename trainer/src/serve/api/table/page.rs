//! The tables as the page of the API has them. The page is made from the tables, and a test holds it to them.

use std::fmt::Write;
use std::path::Path;

use super::field::{Field, Table, Verdict};
use super::{CHAT, COMPLETION, shared};

const BEGIN: &str = "<!-- Made from the server's tables: `UPDATE_DOCS=1 cargo test -p trainer --lib page_of_the_api`. Do not edit. -->\n";
const END: &str = "<!-- The end of what is made from the tables. -->\n";

fn verdict(field: &Field) -> String {
    match field.verdict {
        Verdict::ActedOn => "acted on".to_owned(),
        Verdict::Harmless => "passed over".to_owned(),
        Verdict::RefusedUnless(neutral) => {
            let neutral: Vec<String> = neutral.iter().map(|value| format!("`{value}`")).collect();
            format!("refused unless {}", neutral.join(" or "))
        }
        Verdict::Refused => "refused".to_owned(),
    }
}

/// A heading, a row for each field, and after it the tables of what stands inside.
fn section(text: &mut String, title: &str, fields: &[Field]) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n### {title}\n\n| field | what happens | meaning, or reason |\n| --- | --- | --- |\n"
    );
    for field in fields {
        let says = field.says.replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {} | {says} |", field.name, verdict(field));
    }
    for table in fields.iter().filter_map(|field| field.inside) {
        for fields in table.fields {
            section(text, &format!("In {}", table.place), fields);
        }
    }
}

fn made() -> String {
    let own = |table: &'static Table| (table.place, table.fields[0]);
    let mut text = String::from(BEGIN);
    for (title, fields) in [
        ("Both requests", shared::FIELDS),
        own(&CHAT),
        own(&COMPLETION),
    ] {
        section(&mut text, title, fields);
    }
    text + "\n" + END
}

#[test]
fn the_page_of_the_api_says_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{}{after}", made());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "docs/api.md is not what the tables say; the comment in it names the command that makes it"
        );
    }
}
