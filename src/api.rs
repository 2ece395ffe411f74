//! The API: its resources in one OpenAPI document, and that document's pages beside it.

use std::sync::Arc;

use poem::{Endpoint, IntoEndpoint, Request, Response, Result};
use poem_openapi::{ApiResponse, ExtraHeader, LicenseObject, OpenApi, OpenApiService};

use crate::{
    app::App,
    http::{
        docs::{Page, pages},
        routes::Route,
    },
    operations::Operations,
    wiki::{posts::Posts, users::Users},
};

/// The resources, in one document. Its server is where the document is, so that the pages work under
/// any host and prefix.
fn document<A: OpenApi>(resources: A) -> OpenApiService<A, ()> {
    OpenApiService::new(resources, "Wiki", env!("CARGO_PKG_VERSION"))
        .description(
            "Users and their posts. Every error is an `application/problem+json`, but for requests \
             that are not valid HTTP: an empty 400, 414 or 431.",
        )
        .license(LicenseObject::new(env!("CARGO_PKG_LICENSE")).url(env!("CARGO_PKG_REPOSITORY")))
        .extra_response_header::<String, _>(
            ExtraHeader::new("X-Request-Id")
                .description("The request's id: the one that was sent, or a new one."),
        )
        .server("./")
}

/// The API with its document and pages, and every path of them.
pub fn routes(app: &Arc<App>) -> (impl Endpoint<Output = Response> + use<>, Vec<Route>) {
    let resources = (Users::new(app), Posts::new(app), Operations(app.clone()), Index);
    let api = document(resources.clone());
    let mut paths = Route::of_document(&api.spec());
    let pages = pages(move || document(resources.clone()));
    paths.extend(pages.iter().map(|page| page.path).chain(["/"]).map(Route::page));
    (Routes { pages, api: api.into_endpoint() }, paths)
}

/// The pages beside the API: a `Route` around it would find its way, and write the path anew, for
/// every request twice.
struct Routes<E> {
    pages: [Page; 4],
    api: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Routes<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        match self.pages.iter().find(|page| page.path == request.uri().path()) {
            Some(page) => page.answer(&request),
            None => self.api.call(request).await,
        }
    }
}

#[derive(Clone)]
struct Index;

#[derive(ApiResponse)]
enum ToDocs {
    #[oai(status = 307)]
    See(#[oai(header = "Location")] String),
}

#[OpenApi]
impl Index {
    #[oai(path = "/", method = "get", hidden)]
    async fn index(&self) -> ToDocs {
        // Relative, so that it works under a prefix.
        ToDocs::See("docs".into())
    }
}
