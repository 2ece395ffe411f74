//! The API: its resources in one OpenAPI document, and the pages that show it.

use std::sync::Arc;

use poem::{
    Response,
    endpoint::make_sync,
    http::{StatusCode, header},
};
use poem_openapi::{ExtraHeader, LicenseObject, OpenApi, OpenApiService};

use crate::{
    app::App,
    config::{Config, Editing},
    http::{
        docs::pages,
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

/// The resources, in one document. The server's URL is relative to the document, so that the pages work
/// under any host and prefix.
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

/// The API with its document and pages. With an issuer of tokens, a user belongs to a caller.
pub fn routes(app: &Arc<App>, config: &Config) -> Vec<Route> {
    let posts = (Posts::new(app), OnePost::new(app), Revisions(app.clone()), Diffs::new(app));
    let media = Media::new(app);
    let media = (Pictures::new(&media), Attachments::new(&media));
    let others = (OneUser::new(app), posts, media);
    let last = Operations(app.clone());
    let open = Operations::meta().into_iter().flat_map(|api| api.paths).map(|path| path.path);
    let mut terms = Terms {
        open: open.collect(),
        security: None,
        rate_limit: config.rate_limit_per_second.0.is_some(),
    };
    let routes = match config.auth_issuer.as_str() {
        "" => {
            let talk = (Comments::<NewComment>::new(app), Reactions::<ById>::new(app));
            assemble((AnyUsers(Creation::new(app)), others, talk, last), terms)
        }
        issuer => {
            terms.security = Some(Security { issuer: issuer.to_owned(), read: config.auth_read });
            let talk = (Comments::<NewOwnComment>::new(app), Reactions::<ByToken>::new(app));
            assemble((OwnUsers(Creation::new(app)), others, talk, last), terms)
        }
    };
    match config.editing {
        Editing::Off => routes,
        editing => routes.into_iter().map(|route| route.with_data(editing)).collect(),
    }
}

fn assemble<A: OpenApi + Clone + Send + Sync + 'static>(resources: A, terms: Terms) -> Vec<Route> {
    let mut routes =
        Route::of_document(&document(resources.clone()).spec(), resources.clone(), &terms);
    let pages = pages(move || document(resources.clone()), &terms);
    routes.extend(pages.map(|page| Route::page(page.path, page)));
    routes.push(Route::page(
        "/",
        make_sync(|_| {
            // Relative, so that it works under a prefix.
            Response::builder()
                .status(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, "docs")
                .finish()
        }),
    ));
    routes
}
