//! Parameters of operations: in the path, the query and the headers.

use std::{fmt::Display, str::FromStr};

use percent_encoding::percent_decode_str;
use poem::{Request, RequestBody, Result, http::HeaderMap};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};

use crate::http::problem::{Invalid, Problem};

/// A type for parameters in the path, where it can occur only once.
pub trait InPath: InQuery {
    const NAME: &str;
}

/// A parameter in the path.
pub struct Path<T>(pub T);

impl<'a, T: InPath> ApiExtractor<'a> for Path<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        // poem-openapi calls them `param0`, `param1` and so on. Names and parameters alternate in a path.
        let number: usize = options.name["param".len()..].parse().expect("its number");
        let segment = request.uri().path().split('/').nth(2 * number + 2).expect("of the route");
        let value = percent_decode_str(segment).decode_utf8_lossy();
        let name = T::NAME;
        value.parse().map(Self).map_err(|wanted| {
            let detail = format!("the {name} in the path must be {wanted}");
            Problem::invalid(vec![Invalid { pointer: format!("#/path/{name}"), detail }]).into()
        })
    }
}

/// A type for parameters in the query. The error of its [`FromStr`] says what to give instead.
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

/// A parameter of the query that has to be given.
pub struct Required<T>(pub T);

impl<'a, T: InQuery + Send> ApiExtractor<'a> for Required<T> {
    const TYPES: &'static [ApiExtractorType] = Query::<T>::TYPES;
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Query::<T>::param_in()
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Query::<T>::param_schema_ref()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        let name = options.name;
        let Query(value) = Query::from_request(request, body, options).await?;
        value.map(Self).ok_or_else(|| {
            let wanted = T::from_str("").err().map(|wanted| format!(": give {wanted}"));
            let detail = format!("{name} is missing{}", wanted.unwrap_or_default());
            Problem::invalid(vec![Invalid { pointer: format!("#/query/{name}"), detail }]).into()
        })
    }
}

/// A type that is read from a request's headers; the document has it under its header's name.
pub trait InHead: Sized {
    /// Whether the document says that it is required.
    const IS_REQUIRED: bool = false;

    fn read(headers: &HeaderMap) -> Result<Self, Problem>;

    fn schema() -> MetaSchema {
        MetaSchema::new("string")
    }
}

/// A header that an operation reads.
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
