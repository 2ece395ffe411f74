//! Parameters of operations beside those in the path: in the query, and in the head.

use std::{fmt::Display, str::FromStr};

use poem::{Request, RequestBody, Result, http::HeaderMap};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};

use crate::http::problem::{Invalid, Problem};

/// What can stand in a query. What is wrong with a text, its [`FromStr`] says as what to give instead.
pub trait InQuery: FromStr<Err: Display> {
    fn schema() -> MetaSchemaRef;
}

/// A parameter of the query that may be left out, but not given twice.
pub struct Query<T>(pub Option<T>);

impl<'a, T: InQuery> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        Ok(Self(in_query(request, options.name)?))
    }
}

/// A parameter of the query that has to be given, and once.
pub struct Required<T>(pub T);

impl<'a, T: InQuery> ApiExtractor<'a> for Required<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        let name = options.name;
        Ok(Self(in_query(request, name)?.ok_or_else(|| refusal(name, "is missing".into()))?))
    }
}

fn in_query<T: InQuery>(request: &Request, name: &str) -> Result<Option<T>, Problem> {
    let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.parse().map(Some).map_err(|wanted| {
            let given: String = value.chars().take(40).collect();
            refusal(name, format!("is {given:?}: give {wanted}"))
        }),
        _ => Err(refusal(name, "is given more than once".into())),
    }
}

fn refusal(name: &str, wrong: String) -> Problem {
    let pointer = format!("#/query/{name}");
    Problem::invalid(vec![Invalid { pointer, detail: format!("{name} {wrong}") }])
}

/// What is read from the head of a request, and stands in the document by the name of its header.
pub trait InHead: Sized {
    /// Whether the document says that it has to be there.
    const IS_REQUIRED: bool = false;

    fn read(headers: &HeaderMap) -> Result<Self, Problem>;

    fn schema() -> MetaSchema {
        MetaSchema::new("string")
    }
}

/// A header that an operation looks at.
pub struct Header<T>(pub T);

impl<'a, T: InHead> ApiExtractor<'a> for Header<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = T::IS_REQUIRED;

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<T>,
    ) -> Result<Self> {
        Ok(Self(T::read(request.headers())?))
    }
}
