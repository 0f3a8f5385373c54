//! Who names the local folders of a run: a failure of the file system in one of them ends with what to change.

use std::io::ErrorKind;
use std::path::PathBuf;

use finetune_artifacts::uri::Location;

use crate::failure::LocalFault;

/// Local folders, each with the flag or field that names it.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots(Vec<(PathBuf, &'static str)>);

impl Roots {
    /// Takes in that `name` names `folder`.
    pub(super) fn add(&mut self, folder: PathBuf, name: &'static str) {
        self.0.push((folder, name));
    }

    /// The same for the folder of a URI, where it is one of this machine.
    pub(super) fn add_uri(&mut self, uri: &str, name: &'static str) {
        if let Ok(Location::File { path, .. }) = Location::parse(uri) {
            self.add(path, name);
        }
    }

    /// What to do, where the file lies in one of the folders and the folder is at fault rather than the file.
    pub(super) fn cure(&self, fault: &LocalFault) -> Option<String> {
        let first = match fault.kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free room there",
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "make it writable",
            _ => return None,
        };
        let (_, name) = self
            .0
            .iter()
            .filter(|(folder, _)| fault.path.starts_with(folder))
            .max_by_key(|(folder, _)| folder.components().count())?;
        Some(format!("{first}, or choose another folder with {name}"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "/run/scratch/attempts/000001/claim.json",
        ErrorKind::ReadOnlyFilesystem,
        Some("make it writable, or choose another folder with --work")
    )]
    #[case(
        "/run/cache/outgoing-1/state.safetensors",
        ErrorKind::StorageFull,
        Some("free room there, or choose another folder with --cache")
    )]
    #[case("/runner/x", ErrorKind::StorageFull, None)]
    #[case("/run/outcome.json", ErrorKind::IsADirectory, None)]
    fn a_full_or_read_only_folder_is_named_by_the_flag_that_chose_it(
        #[case] path: &str,
        #[case] kind: ErrorKind,
        #[case] expected: Option<&str>,
    ) {
        let mut roots = Roots::default();
        roots.add_uri("file:///run/", "--work");
        roots.add_uri("s3://run/", "--passing");
        roots.add("/run/cache".into(), "--cache");
        let fault = LocalFault {
            path: path.into(),
            kind,
        };
        assert_eq!(roots.cure(&fault).as_deref(), expected);
    }
}
