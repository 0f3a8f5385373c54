//! Lets the binary find libtorch by itself: beside it in `../lib/libtorch`, which in an image is the folder of the libraries
//! (`/usr/local/lib/libtorch`) and in a build folder a link to the `lib` of `LIBTORCH`. No path of this machine goes into the
//! binary.

use std::path::{Path, PathBuf};

/// From the binary's folder to that of the libraries.
const LIBRARIES: &str = "../lib/libtorch";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/{LIBRARIES}");
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from);
    // <target>/release/build/trainer-<hash>/out
    let output = std::env::var_os("OUT_DIR").map(PathBuf::from);
    let binaries = output
        .as_deref()
        .and_then(|output| output.ancestors().nth(3));
    let (Some(libtorch), Some(binaries)) = (libtorch, binaries) else {
        // libtorch is where the system looks anyway, or LD_LIBRARY_PATH names its folder.
        return;
    };
    if let Err(error) = link(&libtorch.join("lib"), &binaries.join(LIBRARIES)) {
        println!(
            "cargo::warning=failed to link {LIBRARIES} beside the binaries to the libraries of LIBTORCH: {error}; set LD_LIBRARY_PATH to run them"
        );
    }
}

/// Makes `link` a symbolic link to `libraries`, whatever it led to before.
fn link(libraries: &Path, link: &Path) -> std::io::Result<()> {
    if let Some(folder) = link.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(libraries, link)
}
