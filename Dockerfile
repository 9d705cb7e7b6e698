# Postman in one container. Build with the plugins you need; configure by a mounted /etc/postman/postman.toml.
#
#   docker build -t postman .
#   docker run -p 8901:8901 -v ./postman.toml:/etc/postman/postman.toml:ro -v postman:/var/lib/postman postman
#
# In the file: bind = "0.0.0.0:8901" (that needs a [[http.key]]) and url = "sqlite:/var/lib/postman/postman.db".
# More plugins at run time: mount a directory, filled by `pip install --target`, at /plugins.

FROM python:3.13-slim AS build
WORKDIR /src
COPY deploy/requirements.txt .
RUN python -m venv /opt/postman && /opt/postman/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md ./
COPY postman postman
COPY plugins plugins
ARG PLUGINS="sendgrid mailgun smtp"
RUN pip install --no-cache-dir build==1.3.0 \
    && for source in . $(printf 'plugins/postman-plugin-%s ' $PLUGINS); do python -m build --wheel --outdir /wheels "$source"; done \
    && /opt/postman/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
    && /opt/postman/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home postman && install -d -o postman -m 0700 /var/lib/postman && install -d /plugins
COPY --from=build /opt/postman /opt/postman
USER postman
WORKDIR /var/lib/postman
ENV PATH=/opt/postman/bin:$PATH PYTHONUNBUFFERED=1 POSTMAN_PLUGINS=/plugins
EXPOSE 8901
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8901/health/ready', timeout=3)"]
# SIGTERM drains: give `docker stop --time` more than [delivery] grace + 2 seconds. SIGHUP reloads.
ENTRYPOINT ["postman"]
CMD ["serve", "--config", "/etc/postman/postman.toml"]
