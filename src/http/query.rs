//! Parameters of a query.

use std::{fmt::Display, str::FromStr};

use poem::{Request, RequestBody, Result};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchemaRef, Registry},
    types::Type,
};

use crate::http::problem::{Invalid, Problem};

/// A parameter of the query that may be left out, but not given twice. What is wrong with its text, its
/// [`FromStr`] says as what to give instead.
pub struct Query<T>(pub Option<T>);

impl<'a, T: Type + FromStr<Err: Display>> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = T;
    type ParamRawType = T::RawValueType;

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        let name = options.name;
        let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
        let wrong = match (values.next(), values.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(value), None) => match value.parse() {
                Ok(value) => return Ok(Self(Some(value))),
                Err(wanted) => {
                    let given: String = value.chars().take(40).collect();
                    format!("{name} is {given:?}: give {wanted}")
                }
            },
            _ => format!("{name} is given more than once"),
        };
        let pointer = format!("#/query/{name}");
        Err(Problem::invalid(vec![Invalid { pointer, detail: wrong }]).into())
    }
}
