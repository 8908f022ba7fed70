//! Reading TOML values with their places, all errors at once.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Span};
use super::store::{WhenIncomplete, WhenReplaced};
use crate::escape::show;

/// A value of the file, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Its place.
    pub(super) span: Span,
}

/// Something that a TOML value can be read as.
pub(super) trait Read: Sized {
    /// Reads a value; `key` is its whole key, as in `lower.real`. Problems go to `problems`, and
    /// `None` then says that there is no value to work with.
    fn read(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Vec<Problem>) -> Option<Self>;
}

/// Declares a table of a file: its keys, their types, how they are read and their JSON schema. Where
/// the file is no description of a store, `in TABLES` names the tables that it has.
macro_rules! table {
    (in $tables:path; $(#[$table_attribute:meta])* $name:ident { $($(#[$attribute:meta])* $key:literal $field:ident: $type:ty,)+ }) => {
        #[derive(Debug, Default, schemars::JsonSchema)]
        $(#[$table_attribute])*
        #[schemars(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$attribute])* #[schemars(rename = $key)]
            pub(super) $field: Option<$crate::config::read::At<$type>>,)+
        }

        impl $name {
            /// The keys of this table.
            pub(super) const KEYS: &[&str] = &[$($key),+];

            /// Reads the table; `prefix` is its own key with a dot, or nothing.
            pub(super) fn from_table(
                table: &toml::de::DeTable<'_>,
                prefix: &str,
                problems: &mut Vec<$crate::config::problem::Problem>,
            ) -> $name {
                let mut read = $name::default();
                for (key, value) in table.iter() {
                    match key.get_ref().as_ref() {
                        $($key => {
                            let whole = format!("{prefix}{}", $key);
                            read.$field = $crate::config::read::Read::read(value, &whole, problems)
                                .map(|read| $crate::config::read::At { value: read, span: value.span() });
                        })+
                        unknown => problems.push(
                            $crate::config::unknown::unknown_key(unknown, &key.span(), prefix, $name::KEYS, &$tables),
                        ),
                    }
                }
                read
            }
        }

        impl $crate::config::read::Read for $name {
            fn read(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                key: &str,
                problems: &mut Vec<$crate::config::problem::Problem>,
            ) -> Option<$name> {
                let table = $crate::config::read::expect_table(value, key, problems)?;
                Some($name::from_table(table, &format!("{key}."), problems))
            }
        }
    };
    ($($of_a_store:tt)*) => {
        $crate::config::read::table! { in $crate::config::KEYS; $($of_a_store)* }
    };
}
pub(super) use table;

impl Read for String {
    fn read(
        value: &Spanned<DeValue<'_>>,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => wrong_type(value, key, "a string", problems),
        }
    }
}

impl Read for bool {
    fn read(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => wrong_type(value, key, "`true` or `false`", problems),
        }
    }
}

impl Read for u32 {
    fn read(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Vec<Problem>) -> Option<u32> {
        let expected = "a whole number, in decimal digits";
        match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => match number.as_str().parse() {
                Ok(number) => Some(number),
                Err(_) => {
                    problems.push(
                        Problem::new(format!("`{key}` is out of range"))
                            .at(&value.span(), format!("expected {expected}, from 0 on")),
                    );
                    None
                }
            },
            _ => wrong_type(value, key, expected, problems),
        }
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn read(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Vec<Problem>) -> Option<Self> {
        let DeValue::Array(items) = value.get_ref() else {
            return wrong_type(value, key, "an array of strings, in brackets", problems);
        };
        let read = items.iter().enumerate().filter_map(|(index, item)| {
            let value = T::read(item, &format!("{key}[{index}]"), problems)?;
            Some(At {
                value,
                span: item.span(),
            })
        });
        Some(read.collect())
    }
}

/// A program, or `false` for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProgramOrFalse {
    /// The path of a program.
    Program(String),
    /// None.
    False,
}

impl Read for ProgramOrFalse {
    fn read(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Vec<Problem>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(false) => Some(ProgramOrFalse::False),
            DeValue::String(text) if text.is_empty() => Some(ProgramOrFalse::False),
            DeValue::String(text) => Some(ProgramOrFalse::Program(text.clone().into_owned())),
            DeValue::Boolean(true) => {
                problems.push(
                    Problem::new(format!("`{key}` cannot be `true`"))
                        .at(&value.span(), "expected the path of a program, or `false`")
                        .help(format!("leave `{key}` out to have overstore's own")),
                );
                None
            }
            _ => wrong_type(value, key, "the path of a program, or `false`", problems),
        }
    }
}

/// A value that is one of a few words.
macro_rules! words {
    ($type:ident { $($word:literal => $value:ident),+ } $expected:literal) => {
        impl Read for $type {
            fn read(
                value: &Spanned<DeValue<'_>>,
                key: &str,
                problems: &mut Vec<Problem>,
            ) -> Option<Self> {
                match value.get_ref() {
                    $(DeValue::String(text) if text == $word => Some($type::$value),)+
                    DeValue::String(text) => {
                        problems.push(
                            Problem::new(format!("`{key}` cannot be `{}`", show(text.as_bytes())))
                                .at(&value.span(), concat!("expected ", $expected)),
                        );
                        None
                    }
                    _ => wrong_type(value, key, $expected, problems),
                }
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "anyOf": [$({ "const": $word }),+] })
            }
        }
    };
}

words!(WhenIncomplete { "start" => Start, "fail" => Fail } "`\"start\"` or `\"fail\"`");
words!(
    WhenReplaced { "report" => Report, "reconcile" => Reconcile }
    "`\"report\"` or `\"reconcile\"`"
);

impl schemars::JsonSchema for ProgramOrFalse {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProgramOrFalse".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, { "const": false }] })
    }
}

/// A table of any keys whose values are strings, booleans or integers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scalars(pub(super) BTreeMap<String, Scalar>);

/// A key and a value of [`Scalars`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    /// The key's place.
    pub(super) key: Span,
    /// The value, as text.
    pub(super) text: String,
    /// The value's place.
    pub(super) span: Span,
}

impl Read for Scalars {
    fn read(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Vec<Problem>) -> Option<Self> {
        let table = expect_table(value, key, problems)?;
        let mut scalars = BTreeMap::new();
        for (name, value) in table.iter() {
            let text = match value.get_ref() {
                DeValue::String(text) => text.clone().into_owned(),
                DeValue::Boolean(value) => value.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
                _ => {
                    let whole = format!("{key}.{}", name.get_ref());
                    let expected = "a string, a decimal number, `true` or `false`";
                    let _: Option<()> = wrong_type(value, &whole, expected, problems);
                    continue;
                }
            };
            let scalar = Scalar {
                key: name.span(),
                text,
                span: value.span(),
            };
            scalars.insert(name.get_ref().clone().into_owned(), scalar);
        }
        Some(Scalars(scalars))
    }
}

impl schemars::JsonSchema for Scalars {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scalars".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "additionalProperties": { "type": ["string", "boolean", "integer"] },
        })
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

/// The value as a table.
pub(super) fn expect_table<'a, 'i>(
    value: &'a Spanned<DeValue<'i>>,
    key: &str,
    problems: &mut Vec<Problem>,
) -> Option<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => {
            problems.push(
                Problem::new(format!("`{key}` has the wrong type"))
                    .at(
                        &value.span(),
                        format!("expected a table, found {}", describe(value.get_ref())),
                    )
                    .help(format!(
                        "write `[{key}]` on a line of its own, and its keys below"
                    )),
            );
            None
        }
    }
}

fn wrong_type<T>(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    expected: &str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let found = describe(value.get_ref());
    let mut problem = Problem::new(format!("`{key}` has the wrong type"))
        .at(&value.span(), format!("expected {expected}, found {found}"));
    if let (DeValue::String(text), true) = (value.get_ref(), expected.starts_with("`true`"))
        && let Some(boolean) = match text.as_ref() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    {
        problem = problem.help(format!("write `{boolean}`, without quotes"));
    }
    problem.meant = Some(key.to_owned());
    problems.push(problem);
    None
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
