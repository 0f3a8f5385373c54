//! The generated files are what the types say, and the chart has the same ones.

use std::path::Path;
use std::process::Command;

#[test]
fn generated_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(env!("CARGO_BIN_EXE_generate-crds"))
        .args(["--check", "crds/yaml", "docs/reference.md"])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["finetunejobs.yaml", "adapters.yaml"] {
        let read = |folder: &str| std::fs::read_to_string(root.join(folder).join(name)).unwrap();
        assert_eq!(
            read("crds/yaml"),
            read("charts/finetune-operator/files/crds"),
            "the chart's {name} is not that of crds/yaml; run `make generate`"
        );
    }
}
