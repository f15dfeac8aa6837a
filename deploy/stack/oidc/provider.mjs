// An OIDC provider for tests and demonstrations: signed access tokens for a fixed set of clients
// and people.
//
// Belongs here: what the provider is told, a sign-in page as plain as can be. Does not: keys,
// clients, people and their claims (the file that is the one argument; `audit_platform/stack/oidc.py`
// writes it). Source: RFC 9068 (JWT access tokens), RFC 6749 sections 4.1 and 4.4, RFC 7636 (PKCE).

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { Provider } from "oidc-provider";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const claims = Object.fromEntries(config.clients.map((c) => [c.id, c.claims]));
const people = new Map((config.people ?? []).map((p) => [p.id, p]));
const resource = "urn:audit-platform";

const provider = new Provider(config.issuer, {
  clients: config.clients.map((c) => ({
    client_id: c.id,
    client_secret: c.secret,
    grant_types: [c.back ? "authorization_code" : "client_credentials"],
    redirect_uris: c.back ? [c.back] : [],
    response_types: c.back ? ["code"] : [],
    // On loopback, at whatever port (RFC 8252, section 7.3).
    application_type: c.back ? "native" : "web",
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
  extraTokenClaims: (_ctx, token) => people.get(token.accountId)?.claims ?? claims[token.clientId],
  findAccount: (_ctx, id) =>
    people.has(id) ? { accountId: id, claims: () => ({ sub: id }) } : undefined,
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
});

const form = `<!doctype html><title>Sign in</title><form method="post">
<input name="person" placeholder="person"><input name="secret" type="password" placeholder="secret">
<button>Sign in</button></form>`;

provider.use(async (ctx, next) => {
  if (!/^\/interaction\/[\w-]+$/.test(ctx.path)) return next();
  const asked = await provider.interactionDetails(ctx.req, ctx.res);
  if (asked.prompt.name === "consent") {
    // Nobody is asked whether our own page may know who they are.
    const grant = new provider.Grant({
      clientId: asked.params.client_id,
      accountId: asked.session.accountId,
    });
    grant.addOIDCScope("openid");
    const result = { consent: { grantId: await grant.save() } };
    ctx.respond = false;
    return provider.interactionFinished(ctx.req, ctx.res, result, {
      mergeWithLastSubmission: true,
    });
  }
  if (ctx.method !== "POST") {
    ctx.type = "html";
    ctx.body = form;
    return undefined;
  }
  let text = "";
  for await (const chunk of ctx.req) {
    text += chunk;
    if (text.length > 4096) return ctx.throw(413);
  }
  const said = new URLSearchParams(text);
  const person = people.get(said.get("person"));
  if (!person || person.secret !== said.get("secret")) {
    ctx.status = 401;
    ctx.type = "html";
    ctx.body = form;
    return undefined;
  }
  ctx.respond = false;
  return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: person.id } });
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
