//! What is written is read back; what is broken is refused by name, as strictly as the reference implementation.

use proptest::prelude::*;

use super::*;

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}"#;

#[test]
fn a_file_system_that_takes_no_file_is_not_taken_for_a_file_that_is_not_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/x.safetensors");
    let data = TensorData {
        dtype: Dtype::U8,
        shape: &[1],
        bytes: &[7],
    };
    let plan = TensorPlan {
        name: "a".to_owned(),
        dtype: Dtype::U8,
        shape: vec![1],
    };
    for result in [
        write(&path, [("a", data)], None),
        write_lazily(&path, &[plan], None, &|_| Ok(vec![7])),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound),
            "{error:?}"
        );
    }
}

#[test]
fn what_was_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let numbers: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let data = TensorData {
        dtype: Dtype::F32,
        shape: &[1, 2],
        bytes: &numbers,
    };
    write(&path, [("layer.weight", data)], Some(("format", "pt"))).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["layer.weight"]);
    assert_eq!(file.metadata("format"), Some("pt"));
    let tensor = file.tensor("layer.weight").unwrap();
    assert_eq!(tensor.shape, [1, 2]);
    assert_eq!(tensor.to_f32().unwrap(), [1.5, -2.0]);
    assert!(tensor.to_u32().is_none());
    let error = file.tensor("other").unwrap_err().to_string();
    assert!(
        error.ends_with("x.safetensors: no tensor is named `other`"),
        "{error}"
    );
}

#[test]
fn tensors_made_in_turn_give_the_same_file_and_an_error_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, lazy] = ["whole", "lazy"].map(|name| folder.path().join(name));
    let content = |name: &str| name.bytes().cycle().take(8).collect::<Vec<u8>>();
    let names = ["b", "a"];
    let contents = names.map(content);
    let data = names.iter().zip(&contents).map(|(name, bytes)| {
        let data = TensorData {
            dtype: Dtype::F32,
            shape: &[2],
            bytes,
        };
        (*name, data)
    });
    write(&whole, data, Some(("format", "pt"))).unwrap();
    let plans = names.map(|name| TensorPlan {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: vec![2],
    });
    let write = |make: &dyn Fn(&TensorPlan) -> Result<Vec<u8>, Error>| {
        write_lazily(&lazy, &plans, Some(("format", "pt")), make)
    };
    write(&|plan| Ok(content(&plan.name))).unwrap();
    assert_eq!(
        std::fs::read(&whole).unwrap(),
        std::fs::read(&lazy).unwrap()
    );

    let error = write(&|_| Ok(vec![0; 7])).unwrap_err().to_string();
    assert!(
        error.contains("tensor `a` has 7 bytes, expected 8"),
        "{error}"
    );
    assert!(!lazy.exists());
}

#[test]
fn overlaps_gaps_wrong_sizes_and_duplicates_are_refused() {
    assert!(parse(&file_of(TWO, &[0; 11])).is_ok());
    for (from, to) in [
        ("[8,11]", "[7,11]"),
        ("[8,11]", "[9,12]"),
        ("[3]", "[4]"),
        ("\"b\"", "\"a\""),
        ("\"b\"", "\"\""),
        ("[3]", "[18446744073709551615,18446744073709551615]"),
    ] {
        let header = TWO.replace(from, to);
        assert!(parse(&file_of(&header, &[0; 12])).is_err(), "{header}");
        assert!(parse(&file_of(&header, &[0; 11])).is_err(), "{header}");
    }
    assert!(
        parse(&file_of(TWO, &[0; 12])).is_err(),
        "bytes after the last tensor"
    );
}

#[test]
fn a_name_that_stands_twice_is_refused_even_where_the_sizes_agree() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let error = parse(&file_of(header, &[0])).unwrap_err();
    assert!(error.contains('a'), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(at in 0usize..TWO.len() + 19, value: u8, keep in 0usize..TWO.len() + 19) {
        let mut bytes = file_of(TWO, &[0; 11]);
        bytes[at] = value;
        let _ = parse(&bytes);
        let _ = parse(&bytes[..keep]);
    }
}
