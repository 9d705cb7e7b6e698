# Postman in one container. Build with the plugins you need; configure by a directory with postman.toml, mounted at
# /etc/postman, that uid 10001 may read. Mount no single file: an editor that replaces it would go unnoticed.
#
#   docker build -t postman .
#   docker run -p 8901:8901 -v ./config:/etc/postman:ro -v postman:/var/lib/postman postman
#
# In postman.toml: bind = "0.0.0.0:8901" (that needs a [[http.key]]) and url = "sqlite:/var/lib/postman/postman.db".
# More plugins at run time: mount a directory, filled by `pip install --target`, at /plugins.

FROM python:3.13-slim AS build
WORKDIR /src
COPY deploy/requirements.txt .
RUN python -m venv /opt/postman && /opt/postman/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md ./
COPY postman postman
COPY plugins plugins
ARG PLUGINS="sendgrid mailgun smtp"
RUN /opt/postman/bin/pip install --no-cache-dir --no-deps . $(printf './plugins/postman-plugin-%s ' $PLUGINS) \
    && /opt/postman/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home postman && install -d -o postman -g postman -m 0700 /var/lib/postman && install -d /plugins
COPY --from=build /opt/postman /opt/postman
USER 10001
WORKDIR /var/lib/postman
ENV PATH=/opt/postman/bin:$PATH PYTHONUNBUFFERED=1 POSTMAN_PLUGINS=/plugins
EXPOSE 8901
HEALTHCHECK CMD ["python", "-c", "from http.client import *; c = HTTPConnection('127.0.0.1', 8901, timeout=3); c.request('GET', '/health/ready'); exit(c.getresponse().status != 200)"]
# SIGTERM drains: give `docker stop --time` more than [delivery] grace + 2 seconds. SIGHUP reloads.
ENTRYPOINT ["postman"]
CMD ["serve", "--config", "/etc/postman/postman.toml"]
