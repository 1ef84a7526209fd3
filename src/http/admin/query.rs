//! Reads query strings parameter by parameter, as `fields.rs` reads bodies: every mistake is answered with the parameter's name.

use std::ops::RangeInclusive;

use axum::extract::Query;
use axum::http::request::Parts;
use serde_json::Value;

use crate::http::error::ApiError;
use crate::http::fields;
use crate::tenants::admin::{Order, Paging};

/// Most values of one parameter.
const MAX_VALUES: usize = 100;

/// The parameters that were not read yet.
#[derive(Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Of a request.
    pub fn of(parts: &Parts) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid("query", "invalid_query", format!("The query string cannot be read: {error}.")))?;
        Ok(Self(pairs))
    }

    /// Takes a parameter that may be given once.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.take(|key| key == name).into_iter();
        let first = values.next();
        if values.next().is_some() {
            return Err(ApiError::invalid(name, "invalid_value", format!("Invalid '{name}': it is given more than once.")));
        }
        Ok(first.filter(|text| !text.is_empty()))
    }

    /// Takes a parameter with several values, `name=a&name=b` or `name[]=a&name[]=b`.
    pub fn list(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let values = self.take(|key| key == name || key.strip_suffix("[]") == Some(name));
        if values.len() > MAX_VALUES {
            let message = format!("Invalid '{name}': at most {MAX_VALUES} values are right, but got {}.", values.len());
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
        Ok(values)
    }

    /// Takes the parameters `name[key]=value`.
    pub fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let key = |text: &str| Some(text.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.to_owned());
        let taken = self.0.extract_if(.., |(text, _)| key(text).is_some());
        taken.filter_map(|(text, value)| Some((key(&text)?, value))).collect()
    }

    /// Takes an integer within a range.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let Ok(value) = text.parse::<i64>() else {
            return Err(fields::wrong_type(name, "an integer", &Value::String(text)));
        };
        fields::integer(name, &value.into(), range).map(Some)
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(fields::wrong_type(name, "true or false", &Value::String(other.to_owned()))),
        }
    }

    /// Takes one of some words.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        fields::word(name, &text, words).map(Some)
    }

    /// Takes `limit` and `after`.
    pub fn paging(&mut self, usual: usize, most: usize) -> Result<Paging, ApiError> {
        let bound = i64::try_from(most).unwrap_or(i64::MAX);
        let limit = self.integer("limit", 1..=bound)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usual);
        Ok(Paging { after: self.text("after")?, before: None, limit, order: Order::Ascending })
    }

    /// Takes `limit`, `after`, `before` and `order`.
    pub fn paging_both_ways(&mut self, usual: usize, most: usize, order: Order) -> Result<Paging, ApiError> {
        let paging = self.paging(usual, most)?;
        let orders = [("asc", Order::Ascending), ("desc", Order::Descending)];
        Ok(Paging { before: self.text("before")?, order: self.word("order", &orders)?.unwrap_or(order), ..paging })
    }

    /// Refuses what was not read.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("Unknown query parameter: '{name}'.");
                Err(ApiError::invalid(name, "unknown_parameter", message))
            }
        }
    }

    fn take(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.0.extract_if(.., |(key, _)| wanted(key)).map(|(_, value)| value).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn parameters(query: &str) -> Parameters {
        let request = axum::http::Request::builder().uri(format!("/x?{query}")).body(()).unwrap();
        Parameters::of(&request.into_parts().0).unwrap()
    }

    #[test]
    fn lists_are_read_in_both_ways_of_writing_and_the_rest_is_refused_by_name() {
        let mut query = parameters("a[]=1&a%5B%5D=2&a=3&limit=7&b=true&e[gte]=5");
        assert_eq!(query.list("a").unwrap(), ["1", "2", "3"]);
        assert_eq!(query.paging(20, 100).unwrap().limit, 7);
        assert_eq!(query.boolean("b").unwrap(), Some(true));
        assert_eq!(query.integer("e[gte]", 0..=9).unwrap(), Some(5));
        query.finish().unwrap();
        assert_eq!(parameters("x=1").finish().unwrap_err().param.as_deref(), Some("x"));
        let code = |error: ApiError| error.code.unwrap();
        assert_eq!(code(parameters("limit=101").paging(20, 100).unwrap_err()), "value_out_of_range");
        assert_eq!(code(parameters("limit=x").paging(20, 100).unwrap_err()), "invalid_type");
        assert_eq!(code(parameters("b=1").boolean("b").unwrap_err()), "invalid_type");
        assert_eq!(code(parameters("t=1&t=2").text("t").unwrap_err()), "invalid_value");
        let error = parameters("order=up").paging_both_ways(20, 100, Order::Ascending).unwrap_err();
        assert!(error.message.contains("asc") && error.message.contains("\"up\""), "{}", error.message);
    }
}
