//! The API: its resources in one OpenAPI document, and that document's pages beside it.

use std::sync::Arc;

use poem::{Endpoint, IntoEndpoint, Request, Response, Result};
use poem_openapi::{ApiResponse, ExtraHeader, LicenseObject, OpenApi, OpenApiService};

use crate::{
    app::App,
    config::{Config, Editing},
    http::{
        docs::{Page, pages},
        routes::Route,
        terms::{Security, Terms},
    },
    operations::Operations,
    wiki::{
        actor::{ById, ByToken},
        attachments::Attachments,
        comments::{Comments, NewComment, NewOwnComment},
        diff::Diffs,
        media::Media,
        pictures::Pictures,
        post::OnePost,
        posts::Posts,
        reactions::Reactions,
        revisions::Revisions,
        subjects::OwnUsers,
        user::OneUser,
        users::{AnyUsers, Creation},
    },
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

/// The API with its document and pages, and every path of them. With an issuer of tokens, users are their
/// own.
pub fn routes(
    app: &Arc<App>,
    config: &Config,
) -> (impl Endpoint<Output = Response> + use<>, Vec<Route>) {
    let posts = (Posts::new(app), OnePost::new(app), Revisions(app.clone()), Diffs::new(app));
    let media = Media::new(app);
    let media = (Pictures::new(&media), Attachments::new(&media));
    let others = (OneUser::new(app), posts, media);
    let last = (Operations(app.clone()), Index);
    let open = document(last.clone()).spec();
    let open = Route::of_document(&open, &Terms::default());
    let mut terms = Terms {
        open: open.into_iter().map(|route| route.template).collect(),
        security: None,
        rate_limit: config.rate_limit_per_second.0.is_some(),
    };
    match config.auth_issuer.as_str() {
        "" => {
            let talk = (Comments::<NewComment>::new(app), Reactions::<ById>::new(app));
            let resources = (AnyUsers(Creation::new(app)), others, talk, last);
            let (endpoint, paths) = assemble(resources, terms, config.editing);
            (Api::Anybodys(endpoint), paths)
        }
        issuer => {
            terms.security = Some(Security { issuer: issuer.to_owned(), read: config.auth_read });
            let talk = (Comments::<NewOwnComment>::new(app), Reactions::<ByToken>::new(app));
            let resources = (OwnUsers(Creation::new(app)), others, talk, last);
            let (endpoint, paths) = assemble(resources, terms, config.editing);
            (Api::Callers(endpoint), paths)
        }
    }
}

fn assemble<A: OpenApi + Clone + Send + Sync + 'static>(
    resources: A,
    terms: Terms,
    editing: Editing,
) -> (Routes<impl Endpoint<Output = Response>>, Vec<Route>) {
    let api = document(resources.clone());
    let mut paths = Route::of_document(&api.spec(), &terms);
    let pages = pages(move || document(resources.clone()), &terms);
    paths.extend(pages.iter().map(|page| page.path).chain(["/"]).map(Route::page));
    let editing = Some(editing).filter(|editing| *editing != Editing::Off);
    (Routes { pages, editing, api: api.into_endpoint() }, paths)
}

/// The API that anybody may write to as anybody, or that of callers who are known.
enum Api<A, B> {
    Anybodys(A),
    Callers(B),
}

impl<A: Endpoint<Output = Response>, B: Endpoint<Output = Response>> Endpoint for Api<A, B> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        match self {
            Self::Anybodys(api) => api.call(request).await,
            Self::Callers(api) => api.call(request).await,
        }
    }
}

/// The pages beside the API: a `Route` around it would find its way, and write the path anew, for
/// every request twice.
struct Routes<E> {
    pages: [Page; 4],
    /// What writes find out by, unless all of it is off.
    editing: Option<Editing>,
    api: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Routes<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        if let Some(editing) = self.editing.filter(|_| !request.method().is_safe()) {
            request.extensions_mut().insert(editing);
        }
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
