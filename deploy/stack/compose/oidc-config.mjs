// What the OIDC provider of deploy/compose.yaml is told, on standard output; its key is made here.
// The same form as `audit_platform/stack/oidc.py` writes.

import { generateKeyPairSync, randomBytes } from "node:crypto";

const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const client = (id, claims) => ({ id, secret: `${id}-secret`, claims });

console.log(
  JSON.stringify({
    issuer: "http://127.0.0.1:21077",
    host: "0.0.0.0",
    port: 5555,
    audience: "audit-platform",
    seconds: 900,
    keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: "compose" }],
    cookieSecret: randomBytes(32).toString("base64url"),
    clients: [
      client("investigator", { tenant: "hospital-a", roles: ["investigator"] }),
      client("operator", { tenant: "hospital-a", roles: ["operator"] }),
      client("platform-admin", { tenant: "platform", roles: ["operator"] }),
      { ...client("dagster-gate", {}), back: "http://127.0.0.1/gate/callback" },
    ],
    people: [
      client("platform-operator", { tenant: "platform", roles: ["operator"] }),
      client("hospital-operator", { tenant: "hospital-a", roles: ["operator"] }),
      client("platform-auditor", { tenant: "platform", roles: ["auditor"] }),
    ],
  }),
);
