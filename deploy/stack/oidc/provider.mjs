// An OIDC provider for tests and demonstrations: signed access tokens for a fixed set of clients.
//
// Belongs here: what the provider is told. Does not: keys, clients and their claims (the file that
// is the one argument; `audit_platform/stack/oidc.py` writes it), people's sign-in pages.
// Source: RFC 9068 (JWT access tokens), RFC 6749 section 4.4 (client credentials).

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { Provider } from "oidc-provider";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const claims = Object.fromEntries(config.clients.map((c) => [c.id, c.claims]));
const resource = "urn:audit-platform";

const provider = new Provider(config.issuer, {
  clients: config.clients.map((c) => ({
    client_id: c.id,
    client_secret: c.secret,
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
  })),
  jwks: { keys: config.keys },
  cookies: { keys: [config.cookieSecret] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: "",
        audience: config.audience,
        accessTokenFormat: "jwt",
        accessTokenTTL: config.seconds,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  extraTokenClaims: (_ctx, token) => claims[token.clientId],
});

const server = config.tls
  ? createTlsServer(
      { cert: readFileSync(config.tls.cert), key: readFileSync(config.tls.key) },
      provider.callback(),
    )
  : createServer(provider.callback());
server.listen(config.port, config.host, () => console.log(`${config.issuer} is listening`));
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    server.close(() => process.exit(0)); // the provider's own timers would keep it alive
    server.closeAllConnections();
  });
}
