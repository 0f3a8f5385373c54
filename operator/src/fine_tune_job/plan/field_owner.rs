//! Who owns the fields of an Adapter that this controller has created. Pure.
//!
//! The API server records a creation as an update, and an apply takes nothing away that an update owns, not even one by the same
//! field manager: what the next version does not say, such as the digest of its data, would stay as the first version said it.

use finetune_crds::names::field_manager;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

/// The record of owners with what this controller has created as if it had applied it; `None` if there is nothing to change.
pub fn as_applied(owners: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let is_ours = |owner: &ManagedFieldsEntry, operation: &str| {
        owner.manager.as_deref() == Some(field_manager::FINE_TUNE_JOB)
            && owner.operation.as_deref() == Some(operation)
            && owner.subresource.as_deref().unwrap_or_default().is_empty()
    };
    if owners.iter().any(|owner| is_ours(owner, "Apply")) {
        return None;
    }
    let created = owners.iter().position(|owner| is_ours(owner, "Update"))?;
    let mut owners = owners.to_vec();
    owners[created].operation = Some("Apply".to_owned());
    Some(owners)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owners(of: &[(&str, &str, &str)]) -> Vec<ManagedFieldsEntry> {
        of.iter()
            .map(|(manager, operation, subresource)| {
                let mut owner = json!({ "manager": manager, "operation": operation });
                if !subresource.is_empty() {
                    owner["subresource"] = (*subresource).into();
                }
                serde_json::from_value(owner).unwrap()
            })
            .collect()
    }

    #[test]
    fn what_was_created_is_owned_as_if_applied_and_nobody_else_loses_anything() {
        let ours = field_manager::FINE_TUNE_JOB;
        let created = owners(&[
            ("kubectl-edit", "Update", ""),
            (ours, "Update", ""),
            (ours, "Update", "status"),
        ]);
        let applied = owners(&[
            ("kubectl-edit", "Update", ""),
            (ours, "Apply", ""),
            (ours, "Update", "status"),
        ]);
        assert_eq!(as_applied(&created), Some(applied.clone()));
        assert_eq!(as_applied(&applied), None);
        assert_eq!(as_applied(&owners(&[("kubectl-edit", "Update", "")])), None);
    }

    #[test]
    fn what_was_applied_before_keeps_its_record() {
        let ours = field_manager::FINE_TUNE_JOB;
        let both = owners(&[(ours, "Update", ""), (ours, "Apply", "")]);
        assert_eq!(as_applied(&both), None);
    }
}
