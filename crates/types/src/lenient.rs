//! Decoding JSON of Engine API clients as leniently as Docker does: names match whatever their case, `null` means "not given" everywhere, what is unknown is ignored.
//!
//! Types say their exact names with serde as usual; this deserializer bends the input to them. JSON of our own making (records) needs none of it.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// Decodes a JSON text. Empty text decodes like `null`: every field at its default.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return from_value(Value::Null);
    }
    from_value(serde_json::from_slice(text)?)
}

/// Decodes a JSON value.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Lenient(value))
}

/// The field of an object whose name matches, first exactly, then whatever its case. `null` counts as absent.
pub fn field(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let key = match object.contains_key(name) {
        true => name.to_owned(),
        false => object.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone(),
    };
    object.remove(&key).filter(|value| !value.is_null())
}

struct Lenient(Value);

impl IntoDeserializer<'_, Error> for Lenient {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Scalars of `null` are the type's zero, as in Go.
macro_rules! scalar {
    ($($method:ident => $visit:ident($zero:expr)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::Null => visitor.$visit($zero),
                value => value.$method(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = Error;

    scalar! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(0),
        deserialize_i16 => visit_i16(0),
        deserialize_i32 => visit_i32(0),
        deserialize_i64 => visit_i64(0),
        deserialize_u8 => visit_u8(0),
        deserialize_u16 => visit_u16(0),
        deserialize_u32 => visit_u32(0),
        deserialize_u64 => visit_u64(0),
        deserialize_f64 => visit_f64(0.0),
        deserialize_str => visit_str(""),
        deserialize_string => visit_str(""),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Lenient))),
            Value::Object(object) => visitor.visit_map(MapDeserializer::new(object.into_iter().map(|(key, value)| (key, Lenient(value))))),
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Lenient>())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_map(MapDeserializer::new(std::iter::empty::<(String, Lenient)>())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let object = match self.0 {
            Value::Null => Map::new(),
            Value::Object(object) => object,
            other => return Lenient(other).deserialize_any(visitor),
        };
        let mut known: Vec<(&'static str, Lenient)> = Vec::with_capacity(object.len());
        for (key, value) in object {
            let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(&key)) else { continue };
            if value.is_null() {
                continue;
            }
            // The last of several spellings wins, as in Go.
            known.retain(|(name, _)| name != field);
            known.push((field, Lenient(value)));
        }
        visitor.visit_map(MapDeserializer::new(known.into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Inner {
        host_port: String,
        weight: u16,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Outer {
        name: String,
        init: Option<bool>,
        list: Vec<Inner>,
        #[serde(rename = "OOMKilled")]
        killed: bool,
    }

    #[test]
    fn case_null_and_the_unknown_are_forgiven_at_every_depth() {
        let text = br#"{"NAME":"x","init":null,"oomkilled":true,"List":[{"hostport":"80","Weight":null,"More":{}},null],"Extra":[1]}"#;
        let got: Outer = from_slice(text).expect("decodes");
        let first = Inner { host_port: "80".into(), weight: 0 };
        assert_eq!(got, Outer { name: "x".into(), init: None, killed: true, list: vec![first, Inner::default()] });
        assert_eq!(from_slice::<Outer>(b"null").expect("null"), Outer::default());
        assert_eq!(from_slice::<Outer>(b" \n").expect("empty"), Outer::default());
        assert!(from_slice::<Outer>(b"[1]").is_err());
        assert!(from_slice::<Outer>(br#"{"Name":1}"#).is_err());
        assert!(from_slice::<Outer>(br#"{"Name":"a"} x"#).is_err());
    }

    #[test]
    fn a_field_is_found_whatever_its_case() {
        let Value::Object(mut object) = json!({"hostconfig": {"a": 1}, "Null": null}) else { unreachable!() };
        assert_eq!(field(&mut object, "HostConfig"), Some(json!({"a": 1})));
        assert_eq!(field(&mut object, "null"), None);
        assert_eq!(field(&mut object, "absent"), None);
    }
}
