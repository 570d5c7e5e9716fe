// nodemailer as a mail client: both ports, every way to log in that it knows.
// Arguments: the directory of nodemailer, the certificate to trust, the ports of implicit TLS and
// of STARTTLS, the user, its password. Prints the subject of each message that was accepted.

"use strict";

const fs = require("fs");
const [directory, certificate, implicit, starttls, user, pass] = process.argv.slice(2);
const nodemailer = require(directory);
const tls = { ca: fs.readFileSync(certificate), servername: "mx.example.org" };

function transport(port, secure, method, secret) {
    return nodemailer.createTransport({
        host: "127.0.0.1", port: Number(port), secure, requireTLS: !secure, tls,
        auth: { user, pass: secret }, authMethod: method, pool: true, maxConnections: 1,
    });
}

function mail(subject) {
    return {
        from: user, to: ["you@box.example", "too@box.example"], subject,
        text: ".leading dot\nGrüße\n",
        attachments: [{ filename: "nulls.bin", content: Buffer.alloc(300000) }],
    };
}

async function main() {
    for (const [port, secure] of [[implicit, true], [starttls, false]]) {
        for (const method of ["PLAIN", "LOGIN"]) {
            // Two messages on one connection.
            const pool = transport(port, secure, method, pass);
            for (const number of [1, 2]) {
                const subject = `${secure ? "implicit" : "starttls"} ${method} ${number}`;
                const sent = await pool.sendMail(mail(subject));
                if (sent.accepted.length !== 2) throw new Error(JSON.stringify(sent));
                console.log(subject);
            }
            pool.close();
        }
    }
    const wrong = transport(implicit, true, "PLAIN", "wrong");
    const refusal = await wrong.sendMail(mail("wrong")).catch((error) => error);
    wrong.close();
    console.log(`refused ${refusal.code} ${refusal.responseCode}`);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
