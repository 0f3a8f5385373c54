//! The reader of SentencePiece models.

use std::collections::HashSet;

use finetune_artifacts::sentence_piece::{Model, PieceKind};

use crate::driver::fuzz;
use crate::{BUDGET, fixture};

#[test]
fn a_changed_sentence_piece_model_is_refused_or_keeps_its_rules() {
    let names = ["llama", "gemma", "unigram-characters"];
    let seeds = names.map(|name| {
        std::fs::read(fixture(&format!("sentencepiece/{name}/tokenizer.model"))).unwrap()
    });
    fuzz("sentence-piece", BUDGET, &seeds, |bytes| {
        let Ok(model) = Model::parse(bytes) else {
            return;
        };
        let texts: HashSet<&str> = model
            .pieces
            .iter()
            .map(|piece| piece.text.as_str())
            .collect();
        assert_eq!(texts.len(), model.pieces.len());
        assert!(model.pieces.iter().all(|piece| piece.score.is_finite()));
        let kind = |id: u32| model.pieces[id as usize].kind;
        assert_eq!(kind(model.unknown), PieceKind::Unknown);
        for id in [model.begin, model.end, model.padding]
            .into_iter()
            .flatten()
        {
            assert_eq!(kind(id), PieceKind::Control);
        }
    });
}
