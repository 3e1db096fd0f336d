// Search where a page is opened as a file: browsers start no worker from there, so the worker's
// script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      const message = (data) => new MessageEvent("message", { data });
      frame.hidden = true;
      frame.srcdoc = `<script src="${url}"></script>`;
      this.ready = new Promise((resolve) => {
        frame.onload = () => {
          frame.contentWindow.postMessage = (data) => this.dispatchEvent(message(data));
          resolve((data) => frame.contentWindow.dispatchEvent(message(data)));
        };
      });
      document.body.append(frame);
    }

    async postMessage(data) {
      (await this.ready)(data);
    }
  };
}
