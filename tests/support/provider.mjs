// oidc-provider, a certified OpenID Connect provider, with the keys and clients that it is told.
const { folder, port, audience, keys, algorithm } = JSON.parse(process.argv[2]);
const { Provider } = await import(`${folder}/node_modules/oidc-provider/lib/index.js`);

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys },
  clients: ['ada', 'root'].map((name) => ({
    client_id: name,
    client_secret: `secret-of-${name}`,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: algorithm,
  })),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        audience,
        scope: 'wiki:admin',
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: algorithm } },
      }),
    },
  },
});
provider.listen(port, '127.0.0.1');
